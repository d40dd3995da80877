"""Real pictures to compare an artifact with its reference on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lavit_deploy.common.errors import ImageError, MissingDependencyError, UsageError
from lavit_deploy.preprocess import Pixels, Preprocess, decode

SAMPLES = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "horse.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "rocket.jpg",
)
"""Photographs and scans that ship inside scikit-image."""

_CROP = 0.6  # share of each side that a detail crop keeps


@dataclass(frozen=True, eq=False)
class ParityPictures:
    """Preprocessed pictures and where they came from.

    Attributes:
        images: uint8 [B, H, W, C].
        source: one phrase for the manifest.
        skipped: files that could not be read, with the reason.
    """

    images: Pixels
    source: str
    skipped: tuple[str, ...] = ()


def sample_pictures(preprocess: Preprocess) -> ParityPictures:
    """scikit-image's samples: each whole, mirrored, and as two mirrored or plain details.

    Raises:
        MissingDependencyError: scikit-image is not installed.
    """
    try:
        folder = resources.files("skimage.data")
    except ImportError:
        raise MissingDependencyError(
            "scikit-image", extra="export", purpose="compare on its sample pictures"
        ) from None
    images = [
        preprocess(view)
        for name in SAMPLES
        for view in _views(decode((folder / name).read_bytes(), mode=preprocess.mode))
    ]
    return ParityPictures(
        np.stack(images), f"{len(SAMPLES)} scikit-image samples, crops and mirrors"
    )


def _views(image: Image.Image) -> Iterator[Image.Image]:
    width, height = image.size
    crop_width, crop_height = round(width * _CROP), round(height * _CROP)
    yield image
    yield ImageOps.mirror(image)
    yield image.crop((0, 0, crop_width, crop_height))
    yield ImageOps.mirror(image.crop((width - crop_width, height - crop_height, width, height)))


def folder_pictures(folder: Path, preprocess: Preprocess, *, limit: int = 512) -> ParityPictures:
    """Every readable picture below `folder`, in the order of their paths, at most `limit`.

    Raises:
        UsageError: no such folder, or not one readable picture in it.
    """
    if not folder.is_dir():
        raise UsageError(f"no folder of pictures at {folder}")
    images: list[Pixels] = []
    skipped: list[str] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if len(images) == limit:
            break
        try:
            images.append(preprocess(decode(path.read_bytes(), mode=preprocess.mode)))
        except ImageError as error:
            skipped.append(f"{path.relative_to(folder)}: {error}")
    if not images:
        raise UsageError(f"{folder} has no readable picture ({len(skipped)} files were tried)")
    return ParityPictures(
        np.stack(images), f"{len(images)} pictures of {folder.name}", tuple(skipped)
    )
