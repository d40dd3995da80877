"""What the tests of this folder share: a bundle that says which colour a picture has most of."""

import numpy as np
import pytest
from PIL import Image

from mean_bundles import artifact, write  # noqa: F401 - fixtures

COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}


@pytest.fixture
def bundle(tmp_path, write):
    from mean_bundles import make_artifact

    folder = tmp_path / "mean.bundle"
    folder.mkdir()
    return write(make_artifact(folder, "onnx-fp32"), folder=folder)


@pytest.fixture
def folder(tmp_path):
    """Three pictures of each class in its folder, and one that is damaged."""
    root = tmp_path / "pictures"
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.full((8 + number, 8, 3), colour, dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    (root / "red" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return root
