"""Noisy pictures whose brightest channel tells their class, and a folder of them."""

import numpy as np
import pytest
from PIL import Image

CLASSES = ("blue", "green", "red")


def coloured(label, random):
    """A noisy picture [20, 24, 3] whose brightest channel tells its class."""
    pixels = random.integers(0, 120, (20, 24, 3))
    pixels[..., 2 - label] += 120
    return pixels.astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """train/ and val/ with one folder of PNG files per class."""
    random = np.random.default_rng(1)
    root = tmp_path / "pictures"
    for part, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(CLASSES):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(coloured(label, random))
                image.save(root / part / name / f"{number}.png")
    return root
