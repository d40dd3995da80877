"""From the bytes of a picture to the uint8 array that a model takes: one way for every room.

    bytes -> header checked -> decoded -> upright RGB -> resized -> centre crop -> uint8 [H, W, 3]

Mean and standard deviation are not applied here: exported graphs take uint8 and normalise inside.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt

from lavit_deploy.errors import (
    CorruptImageError,
    ImageError,
    ImageTooLargeError,
    UnsupportedImageError,
)

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are accepted; everything else Pillow could open is refused."""

MAX_PIXELS = 50_000_000
"""Default limit on width * height, read from the header before anything is decoded."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

Pixels = npt.NDArray[np.uint8]


class Preprocess(BaseModel):
    """How a picture becomes a model's input; stored in checkpoints and manifests.

    Attributes:
        resize: length in pixels that the shorter side is resized to.
        crop: height and width of the centre crop, the model's input size.
        interpolation: resampling filter of the resize.
        mean: per-channel mean on the 0..1 scale.
        std: per-channel standard deviation on the 0..1 scale.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    resize: PositiveInt = 256
    crop: tuple[PositiveInt, PositiveInt] = (224, 224)
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = IMAGENET_STD

    @classmethod
    def for_size(cls, image_size: tuple[int, int]) -> Preprocess:
        """The paper's evaluation: shorter side to 256 / 224 of the crop, then a centre crop."""
        return cls(resize=round(min(image_size) * 256 / 224), crop=image_size)

    def __call__(self, image: Image.Image) -> Pixels:
        """Resize and crop an RGB picture.

        Returns:
            uint8 [H, W, 3] of size `crop`. A picture that is smaller than the crop after the
            resize (its shape differs from the crop's) is padded with black on all sides.

        Raises:
            ImageTooLargeError: the picture is so narrow that its resized form, before the crop,
                would have more than `MAX_PIXELS` pixels.
        """
        width, height = image.size
        scale = self.resize / min(width, height)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        crop_height, crop_width = self.crop
        if size[0] * size[1] > MAX_PIXELS:  # 1 x 20000 at 256 would take 4 GB
            raise ImageTooLargeError(
                f"a picture of {width} x {height} pixels is too narrow: with its shorter side at "
                f"{self.resize} it would have {size[0] * size[1]:,} pixels; "
                f"the limit is {MAX_PIXELS:,}"
            )
        if image.size != size:
            image = image.resize(size, _RESAMPLING[self.interpolation])
        left, top = round((size[0] - crop_width) / 2), round((size[1] - crop_height) / 2)
        image = image.crop((left, top, left + crop_width, top + crop_height))
        return np.asarray(image, dtype=np.uint8)


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a picture to upright RGB.

    EXIF orientation is applied, transparency is laid on white, 16-bit samples are scaled to 8,
    CMYK, palette and grey become RGB; of an animation the first frame is taken.

    Args:
        data: the whole file.
        max_pixels: limit on width * height, checked on the header before decoding.

    Raises:
        UnsupportedImageError: not an image, or of a format not in `FORMATS`.
        ImageTooLargeError: more pixels than `max_pixels`.
        CorruptImageError: truncated or damaged.
    """
    if not data:
        raise UnsupportedImageError("the file is empty; expected one of " + ", ".join(FORMATS))
    with _explained(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        pixels = image.width * image.height
        if pixels > max_pixels:
            raise ImageTooLargeError(
                f"the picture has {image.width} x {image.height} = {pixels:,} pixels; "
                f"the limit is {max_pixels:,}"
            )
        image.load()
        return _rgb(ImageOps.exif_transpose(image))


@contextmanager
def _explained() -> Iterator[None]:
    """Turn every way in which Pillow refuses a file into one of our errors."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise UnsupportedImageError(
            "the file is not an image of an accepted format; expected one of " + ", ".join(FORMATS)
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLargeError(f"the picture is refused: {error}") from None
    except MemoryError:
        raise ImageTooLargeError("the picture does not fit in memory") from None
    # Pillow's decoders report damage by many types; all of them come from the file's bytes.
    except (OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, TypeError) as error:
        raise CorruptImageError(f"the picture is truncated or damaged: {error}") from None
    except (OverflowError, ArithmeticError, RuntimeError) as error:
        raise CorruptImageError(f"the picture is truncated or damaged: {error}") from None
    except Exception as error:
        # struct.error and zlib.error derive from Exception directly.
        if type(error).__module__ in {"struct", "zlib"}:
            raise CorruptImageError(f"the picture is truncated or damaged: {error}") from None
        raise


def _rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to RGB, transparency over white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in {"I;16", "I;16B", "I;16L", "I"}:
        samples = np.asarray(image).astype(np.uint32)  # 16-bit grey, also as 32-bit integers
        return Image.fromarray((samples.clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        samples = np.nan_to_num(np.asarray(image)).clip(0.0, 255.0)
        return Image.fromarray(samples.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def normalise(images: Pixels, preprocess: Preprocess) -> npt.NDArray[np.float32]:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] with mean and std applied, as training sees it."""
    mean = np.asarray(preprocess.mean, dtype=np.float32)
    std = np.asarray(preprocess.std, dtype=np.float32)
    scaled = (images.astype(np.float32) / np.float32(255.0) - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))  # [B, H, W, 3] -> [B, 3, H, W]
