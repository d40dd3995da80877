"""From the bytes of a picture to the uint8 array that a model takes: one way for every room.

    bytes -> header checked -> decoded -> upright, in the model's channels -> resized -> centre crop
    -> uint8 [H, W, C]

Mean and standard deviation are not applied here: exported graphs take uint8 and normalise inside.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    JsonValue,
    PositiveInt,
    model_validator,
)

from lavit_deploy.common.errors import (
    CorruptImageError,
    ImageError,
    ImageTooLargeError,
    UnsupportedImageError,
)

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are accepted; everything else Pillow could open is refused."""

MAX_PIXELS = 50_000_000
"""Default limit on width * height, read from the header before anything is decoded."""

JPEG_MARGIN = 2.0
"""Least resolution that a JPEG decoded at a fraction keeps, as a multiple of the model's."""

JPEG_TOLERANCE = 1.5
"""Largest mean difference, of 255 levels, that this makes, in white noise. Measured at 224 pixels
from 3000: 0.1 to 0.3 in photographs, and no sample by more than 5."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Mode = Literal["L", "LA", "RGB", "RGBA"]
"""Pillow's names of the pictures that a model can take: grey or coloured, with or without alpha."""

MODES: tuple[Mode, ...] = ("L", "LA", "RGB", "RGBA")
"""By the number of channels, from 1."""

CHANNELS: dict[Mode, str] = {"L": "grey", "LA": "grey and alpha", "RGB": "RGB", "RGBA": "RGBA"}
"""What the channels of each are, for people."""

PositiveFinite = Annotated[FiniteFloat, Field(gt=0)]

_CHANNELS: dict[str, JsonValue] = {"minItems": 1, "maxItems": len(MODES)}
_OF_PIXELS = 255.0
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
        resize: length in pixels that the shorter side is resized to; or height and width of a box
            that the picture is resized to cover.
        crop: height and width of the centre crop, the model's input size.
        interpolation: resampling filter of the resize.
        mean: per-channel mean on the 0..1 scale; there are as many as channels (`MODES`).
        std: per-channel standard deviation on the 0..1 scale.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    resize: PositiveInt | tuple[PositiveInt, PositiveInt] = 256
    crop: tuple[PositiveInt, PositiveInt] = (224, 224)
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    mean: tuple[FiniteFloat, ...] = Field(IMAGENET_MEAN, json_schema_extra=_CHANNELS)
    std: tuple[PositiveFinite, ...] = Field(IMAGENET_STD, json_schema_extra=_CHANNELS)

    @model_validator(mode="after")
    def _check_scale(self) -> Self:
        if not 1 <= len(self.mean) <= len(MODES):
            raise ValueError(f"mean has {len(self.mean)} channels; pictures have 1 to 4")
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} channels, std has {len(self.std)}")
        if max(*self.mean, *self.std) > 1.0:  # no pixel on the 0..1 scale differs by more
            mean, std = (
                tuple(round(value / _OF_PIXELS, 6) for value in values)
                for values in (self.mean, self.std)
            )
            raise ValueError(
                f"mean {self.mean} and std {self.std} are on the 0..255 scale; "
                f"on that of 0..1 they are mean {mean} and std {std}"
            )
        return self

    @classmethod
    def for_size(cls, image_size: tuple[int, int], channels: int = 3) -> Preprocess:
        """The paper's evaluation: shorter side to 256 / 224 of the crop, then a centre crop.

        A picture is resized to cover 256 / 224 of a crop that is not square. ImageNet's statistics
        are of RGB; grey has their average, and alpha is taken from -1 to 1.

        Args:
            image_size: height and width of the model's input.
            channels: of the model's input, 1 to 4.
        """
        height, width = (round(side * 256 / 224) for side in image_size)
        return cls(
            resize=height if height == width else (height, width),
            crop=image_size,
            mean=_of_channels(IMAGENET_MEAN, channels, alpha=0.5),
            std=_of_channels(IMAGENET_STD, channels, alpha=0.5),
        )

    @property
    def sizes(self) -> str:
        """What a picture is resized to, in words."""
        if isinstance(self.resize, int):
            return f"shorter side {self.resize}"
        return f"covering {self.resize[0]} x {self.resize[1]}"

    @property
    def mode(self) -> Mode:
        """What a picture is decoded to."""
        return MODES[len(self.mean) - 1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of a prepared picture."""
        return (*self.crop, len(self.mean))

    def __call__(self, image: Image.Image) -> Pixels:
        """Resize and crop a picture of any mode.

        Returns:
            uint8 [H, W, C] of size `crop`. A picture that is smaller than the crop after the
            resize (its shape differs from the crop's) is padded with black on all sides.

        Raises:
            ImageTooLargeError: the picture is so narrow that its resized form, before the crop,
                would have more than `MAX_PIXELS` pixels.
        """
        return self.fit(image, image.size, (0.0, 0.0, *image.size))

    def fit(
        self, image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]
    ) -> Pixels:
        """Resize and crop a picture of which a smaller copy is given.

        Args:
            image: the copy.
            size: width and height of the whole picture, pixels.
            box: left, top, right and bottom of what the copy shows of it, in the copy's pixels.

        Returns:
            As of a call.

        Raises:
            ImageTooLargeError: as of a call.
        """
        size = self.resized(size)
        crop_height, crop_width = self.crop
        image = to_mode(image, self.mode)
        if image.size != size:
            image = image.resize(size, _RESAMPLING[self.interpolation], box)
        left, top = round((size[0] - crop_width) / 2), round((size[1] - crop_height) / 2)
        image = image.crop((left, top, left + crop_width, top + crop_height))
        return np.asarray(image, dtype=np.uint8).reshape(self.shape)  # grey: [H, W] -> [H, W, 1]

    def scale(self, size: tuple[int, int]) -> float:
        """By how much a picture of this width and height is resized."""
        width, height = size
        if isinstance(self.resize, int):
            return self.resize / min(width, height)
        return max(self.resize[0] / height, self.resize[1] / width)

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height that a picture of this width and height has before the crop, pixels.

        Raises:
            ImageTooLargeError: as of a call.
        """
        width, height = size
        scale = self.scale(size)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        if size[0] * size[1] > MAX_PIXELS:  # 1 x 20000 at 256 would take 4 GB
            raise ImageTooLargeError(
                f"a picture of {width} x {height} pixels is too narrow: resized to "
                f"{size[0]} x {size[1]} it would have {size[0] * size[1]:,} pixels; "
                f"the limit is {MAX_PIXELS:,}"
            )
        return size


def _of_channels(rgb: tuple[float, ...], channels: int, *, alpha: float) -> tuple[float, ...]:
    """Statistics of a number of channels from those of RGB."""
    colours = rgb if channels > 2 else (round(sum(rgb) / len(rgb), 6),)
    return colours if channels % 2 else (*colours, alpha)


def decode(
    data: bytes,
    *,
    mode: Mode = "RGB",
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] = FORMATS,
) -> Image.Image:
    """Decode a picture, upright, to RGB or another mode.

    EXIF orientation is applied, transparency is laid on white where the mode has no alpha, 16-bit
    samples are scaled to 8; of an animation the first frame is taken.

    Args:
        data: the whole file.
        mode: what CMYK, palettes, grey and colours become.
        max_pixels: limit on width * height, checked on the header before decoding.
        formats: Pillow's names of the formats that are taken.

    Raises:
        UnsupportedImageError: not an image, or of a format not in `formats`.
        ImageTooLargeError: more pixels than `max_pixels`.
        CorruptImageError: truncated or damaged.
    """
    with _opened(data, max_pixels, formats) as image:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return to_mode(image, mode)


def prepare(
    data: bytes,
    preprocess: Preprocess,
    *,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] = FORMATS,
) -> Pixels:
    """Decode, resize and crop in one step, which spares large JPEGs most of their decoding.

    A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size by leaving out high frequencies, which the
    resize to the model's size would remove anyway. This is done where what is decoded keeps
    `JPEG_MARGIN` times the resolution that the model sees. Other pictures are treated as by
    `preprocess(decode(data))`.

    Args:
        data: the whole file.
        preprocess: resize and crop.
        max_pixels: limit on width * height, checked on the header before decoding.
        formats: Pillow's names of the formats that are taken.

    Returns:
        uint8 [H, W, C], within `JPEG_TOLERANCE` of `preprocess(decode(data))`.

    Raises:
        ImageError: as of `decode` and `Preprocess`.
    """
    with _opened(data, max_pixels, formats) as image:
        size = image.size
        preprocess.resized(size)  # refused before it is decoded, if at all
        edges = _draft(image, preprocess)
        image.load()
        orientation = image.getexif().get(_ORIENTATION, 1) if edges else 1
        ImageOps.exif_transpose(image, in_place=True)
        upright = to_mode(image, preprocess.mode)
    if not edges:
        return preprocess(upright)
    if orientation in _SIDEWAYS:
        size = (size[1], size[0])
    return preprocess.fit(upright, size, _box(upright.size, edges, orientation))


_ORIENTATION = 0x0112
"""EXIF tag."""

_SIDEWAYS = frozenset({5, 6, 7, 8})
"""EXIF orientations that exchange width and height."""

_FAR_EDGES = {1: "rb", 2: "lb", 3: "lt", 4: "rt", 5: "br", 6: "bl", 7: "tl", 8: "tr"}
"""Where the stored right and bottom edges are found once a picture is upright, by EXIF."""


def _draft(image: Image.Image, preprocess: Preprocess) -> tuple[float, float] | None:
    """Have a JPEG decoded at a fraction of its size, if it is large enough.

    Returns:
        By how much, in decoded pixels, the last column and the last row exceed the picture; None
        where it is decoded as it is.
    """
    # "nearest" picks single pixels, which no smaller copy has.
    if image.format not in {"JPEG", "MPO"} or preprocess.interpolation == "nearest":
        return None
    scale = JPEG_MARGIN * preprocess.scale(image.size)
    # Rounded up, so that neither side can fall below the margin.
    wanted = (-int(-image.width * scale // 1), -int(-image.height * scale // 1))
    if scale >= 1 or (drafted := image.draft(None, wanted)) is None:
        return None
    right, bottom = drafted[1][2:]
    return image.width - right, image.height - bottom


def _box(
    size: tuple[int, int], edges: tuple[float, float], orientation: int
) -> tuple[float, float, float, float]:
    """What of an upright copy is the picture; `edges` as `_draft` returns them."""
    inset = dict(zip(_FAR_EDGES.get(orientation, "rb"), edges, strict=True))
    return (
        inset.get("l", 0.0),
        inset.get("t", 0.0),
        size[0] - inset.get("r", 0.0),
        size[1] - inset.get("b", 0.0),
    )


@contextmanager
def _opened(data: bytes, max_pixels: int, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """A picture whose header is read and within the limits; errors are explained."""
    if not data:
        raise UnsupportedImageError("the file is empty; expected one of " + ", ".join(formats))
    with _explained(formats, max_pixels), Image.open(io.BytesIO(data), formats=formats) as image:
        pixels = image.width * image.height
        if pixels > max_pixels:
            raise ImageTooLargeError(
                f"the picture has {image.width} x {image.height} = {pixels:,} pixels; "
                f"the limit is {max_pixels:,}"
            )
        yield image


@contextmanager
def _explained(formats: tuple[str, ...], max_pixels: int) -> Iterator[None]:
    """Turn every way in which Pillow refuses a file into one of our errors."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise UnsupportedImageError(
            "the file is not an image of an accepted format; expected one of " + ", ".join(formats)
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow's own limit, looked at before ours: "Image size (N pixels) exceeds limit of M ..."
        found, limit = (int(number) for number in re.findall(r"\d+", str(error))[:2])
        raise ImageTooLargeError(
            f"the picture has {found:,} pixels; the limit is {min(limit, max_pixels):,}"
        ) from None
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


def to_mode(image: Image.Image, mode: Mode) -> Image.Image:
    """A picture of any of Pillow's modes in one that a model takes.

    Transparency is laid on white where `mode` has no alpha; a picture without is opaque.
    """
    if image.mode == mode and "transparency" not in image.info:
        return image
    if mode == "RGB":
        return _rgb(image)
    if mode == "L":
        return _rgb(image).convert("L")  # of grey as RGB, Pillow's weights give the same grey
    return _with_alpha(image).convert(mode)


def _with_alpha(image: Image.Image) -> Image.Image:
    """Any Pillow mode to RGBA."""
    if image.has_transparency_data and image.mode not in _WIDE_GREY:
        return image.convert("RGBA")
    return _rgb(image).convert("RGBA")


_WIDE_GREY = frozenset({"I;16", "I;16B", "I;16L", "I", "F"})


def _rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to RGB, transparency over white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in {"I;16", "I;16B", "I;16L", "I"}:
        return _grey(image)
    if image.mode == "F":
        return _grey_of_floats(image)
    if image.has_transparency_data:
        # At most three pictures in memory at a time, of four bytes a pixel.
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        white = (255, 255, 255, 255)
        return Image.alpha_composite(Image.new("RGBA", rgba.size, white), rgba).convert("RGB")
    return image.convert("RGB")


def _grey(image: Image.Image) -> Image.Image:
    """16-bit grey, also as 32-bit integers, to RGB; a transparent level becomes white."""
    samples = np.asarray(image)
    grey = (samples.clip(0, 65535) >> 8).astype(np.uint8)
    level = image.info.get("transparency")
    if isinstance(level, int):
        grey[samples == level] = 255
    return Image.fromarray(grey).convert("RGB")


def _grey_of_floats(image: Image.Image) -> Image.Image:
    """Grey as floats to RGB: on the 0..1 scale where no sample is above 1, else on 0..255."""
    samples = np.nan_to_num(np.asarray(image), posinf=0.0, neginf=0.0)
    scale = 255.0 if samples.max() <= 1.0 else 1.0
    return Image.fromarray((samples * scale).clip(0.0, 255.0).round().astype(np.uint8)).convert(
        "RGB"
    )


def normalise(images: Pixels, preprocess: Preprocess) -> npt.NDArray[np.float32]:
    """uint8 [B, H, W, C] -> float32 [B, C, H, W] with mean and std applied, as training sees it."""
    mean = np.asarray(preprocess.mean, dtype=np.float32)
    std = np.asarray(preprocess.std, dtype=np.float32)
    scaled = (images.astype(np.float32) / np.float32(255.0) - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))  # [B, H, W, C] -> [B, C, H, W]
