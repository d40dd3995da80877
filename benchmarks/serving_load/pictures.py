"""Pictures to send: photographs as JPEG, always the same."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from PIL import Image

from lavit_deploy.export.judging.parity_pictures import SAMPLES
from lavit_deploy.preprocess import decode

PHOTO = (500, 375)
"""Width and height of a typical ImageNet photograph."""

SMALL = (64, 64)
"""What the small model takes: nothing but overhead is left."""


def write_pictures(folder: Path, size: tuple[int, int]) -> list[Path]:
    """scikit-image's samples at one size, as JPEG of quality 90, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in SAMPLES:
        picture = decode((resources.files("skimage.data") / name).read_bytes())
        file = folder / f"{Path(name).stem}.jpg"
        picture.resize(size, Image.Resampling.LANCZOS).save(file, quality=90)
        written.append(file)
    return written
