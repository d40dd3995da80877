"""Write a few held-out digits as pictures: examples/images/.

    python examples/pictures.py

Each file is what evaluation saw, pixel for pixel: the 8 x 8 digit after the checkpoint's own
resize, as a lossless 64 x 64 PNG, which that resize then leaves as it is. The number that a file's
name begins with is its true class. The digits are the first held-out one of each class, not chosen
by how well they are recognised.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from lavit_deploy.common.atomic_files import atomic_path
from lavit_deploy.datasets import DataSource, digit_pictures

FOLDER = Path(__file__).resolve().parent / "images"


def main() -> None:
    """Write one picture of every class."""
    write_pictures(digit_pictures(), FOLDER)


def write_pictures(data: DataSource, folder: Path) -> None:
    """Write the first held-out picture of every class as `CLASS_digit.png`."""
    labels = list(data.held_out.labels)
    for label, name in enumerate(data.classes):
        pixels = data.preprocess(data.held_out.image(labels.index(label)))
        with atomic_path(folder / f"{name}_digit.png") as path:
            Image.fromarray(pixels).save(path)


if __name__ == "__main__":
    main()
