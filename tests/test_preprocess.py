import io
import re
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from lavit_deploy.common.errors import (
    CorruptImageError,
    ImageError,
    ImageTooLargeError,
    UnsupportedImageError,
)
from lavit_deploy.common.validation import problems
from lavit_deploy.preprocess import (
    FORMATS,
    JPEG_TOLERANCE,
    Preprocess,
    decode,
    normalise,
    prepare,
)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def left_red_right_blue(mode="RGB"):
    image = Image.new("RGB", (8, 4), (255, 0, 0))
    image.paste((0, 0, 255), (4, 0, 8, 4))
    return image.convert(mode)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_accepted_format_is_decoded(kind):
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    image = decode(encoded(left_red_right_blue(), kind, **options))
    assert image.mode == "RGB"
    assert image.size == (8, 4)
    left, right = np.asarray(image)[2, 0].astype(int), np.asarray(image)[2, 7].astype(int)
    # JPEG at quality 95 keeps flat areas within a few levels.
    assert np.abs(left - (255, 0, 0)).max() <= 6
    assert np.abs(right - (0, 0, 255)).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = left_red_right_blue()
    # how the sensor stored it for each EXIF value, by Pillow's transpose operations
    stored = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }[orientation]
    image = upright
    for operation in stored:
        image = image.transpose(operation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode(encoded(image, exif=exif))
    assert np.array_equal(np.asarray(found), np.asarray(upright))


def test_transparency_is_laid_on_white():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 128))
    pixels = np.asarray(decode(encoded(image)))
    assert tuple(pixels[0, 0]) == (255, 255, 255)
    assert np.abs(pixels[0, 1].astype(int) - 127).max() <= 1


def test_a_transparent_palette_entry_is_laid_on_white():
    image = Image.new("P", (1, 1), 0)
    image.putpalette([10, 20, 30])
    assert tuple(np.asarray(decode(encoded(image, transparency=0)))[0, 0]) == (255, 255, 255)


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    samples = np.array([[0, 0x1234, 0x80FF, 0xFFFF]], dtype=np.uint16)
    pixels = np.asarray(decode(encoded(Image.fromarray(samples))))
    assert pixels[0, :, 0].tolist() == [0, 0x12, 0x80, 0xFF]


def test_sixteen_bit_colour_and_alpha_are_scaled_and_not_clipped():
    # PNGs of one pixel by hand: Pillow writes no 16-bit colour.
    assert np.asarray(decode(png16(2, (0x1234, 0x80FF, 0xFFFF))))[0, 0].tolist() == [
        *(0x12, 0x80, 0xFF),
    ]
    opaque = np.asarray(decode(png16(6, (0x1234, 0x80FF, 0xFFFF, 0xFFFF))))
    assert opaque[0, 0].tolist() == [0x12, 0x80, 0xFF]
    assert np.asarray(decode(png16(6, (0, 0, 0, 0))))[0, 0].tolist() == [255] * 3
    assert np.asarray(decode(png16(4, (0x8000, 0xFFFF))))[0, 0].tolist() == [0x80] * 3
    assert np.asarray(decode(png16(4, (0x8000, 0))))[0, 0].tolist() == [255] * 3


def png16(colour_type, samples):
    """A PNG of one pixel with 16 bits a sample."""

    def chunk(kind, data):
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    header = (1).to_bytes(4, "big") * 2 + bytes([16, colour_type, 0, 0, 0])
    row = b"\0" + b"".join(sample.to_bytes(2, "big") for sample in samples)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(row))
        + chunk(b"IEND", b"")
    )


def test_a_transparent_level_of_sixteen_bit_grey_is_laid_on_white():
    samples = np.array([[0x1200, 0x3400]], dtype=np.uint16)
    pixels = np.asarray(decode(encoded(Image.fromarray(samples), transparency=0x1200)))
    assert pixels[0, :, 0].tolist() == [255, 0x34]


def test_signed_and_large_grey_samples_are_clipped_and_do_not_wrap():
    samples = np.array([[-5, 0x4000, 1 << 20]], dtype=np.int32)
    pixels = np.asarray(decode(encoded(Image.fromarray(samples), "TIFF")))
    assert pixels[0, :, 0].tolist() == [0, 0x40, 255]


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_grey_floats_are_on_the_scale_that_their_values_show(top):
    samples = np.array([[0.0, 0.5, 1.0, np.nan]], dtype=np.float32) * np.float32(top)
    pixels = np.asarray(decode(encoded(Image.fromarray(samples), "TIFF")))
    assert pixels[0, :, 0].tolist() == [0, 128, 255, 0]  # 127.5 goes to the even number


def test_grey_with_alpha_is_laid_on_white():
    image = Image.new("LA", (2, 1), (0, 0))
    image.putpixel((1, 0), (77, 255))
    assert np.asarray(decode(encoded(image)))[0, :, 0].tolist() == [255, 77]


def test_an_adobe_jpeg_in_cmyk_is_not_a_negative():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red = np.asarray(decode(encoded(image, "JPEG", quality=95)))[8, 8].astype(int)
    assert np.abs(red - (255, 0, 0)).max() <= 6  # JPEG at quality 95


def test_the_first_frame_of_an_animated_webp_is_taken():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert tuple(np.asarray(decode(data))[0, 0]) == (255, 0, 0)


def test_cmyk_becomes_rgb():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red = np.asarray(decode(encoded(image, "TIFF")))[0, 0]
    assert tuple(red) == (255, 0, 0)


def test_grey_and_two_level_images_become_rgb():
    assert np.asarray(decode(encoded(Image.new("L", (1, 1), 77))))[0, 0].tolist() == [77] * 3
    assert np.asarray(decode(encoded(Image.new("1", (1, 1), 1))))[0, 0].tolist() == [255] * 3


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert tuple(np.asarray(decode(data))[0, 0]) == (255, 0, 0)


@pytest.mark.parametrize("data", [b"", b"hello", b"<svg/>", b"%PDF-1.7", b"\x89PNG\r\n"])
def test_bytes_that_are_no_picture_are_unsupported(data):
    with pytest.raises(UnsupportedImageError, match="JPEG, PNG"):
        decode(data)


def test_a_format_that_is_not_accepted_is_unsupported():
    with pytest.raises(UnsupportedImageError):
        decode(encoded(left_red_right_blue(), "PPM"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_picture_is_corrupt(kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(CorruptImageError):
        decode(data[: len(data) // 2])


def test_too_many_pixels_are_refused_by_the_header_alone():
    # a PNG of 30000 x 30000 whose pixel data is one byte: decoding it would fail otherwise
    data = encoded(Image.new("L", (10, 10)))
    header = data[12:16] + (30000).to_bytes(4, "big") * 2 + data[24:29]
    bomb = data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:]
    with pytest.raises(ImageTooLargeError, match="900,000,000 pixels; the limit is 50,000,000"):
        decode(bomb)


def test_a_picture_that_is_too_narrow_is_refused_by_the_header_alone(monkeypatch):
    data = encoded(Image.new("L", (1, 100_000)))
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("it is decoded"))
    with pytest.raises(ImageTooLargeError, match="1 x 100000 pixels is too narrow"):
        prepare(data, Preprocess(resize=64, crop=(64, 64)))


def test_the_pixel_limit_is_inclusive():
    data = encoded(Image.new("RGB", (10, 10)))
    assert decode(data, max_pixels=100).size == (10, 10)
    with pytest.raises(ImageTooLargeError, match="10 x 10 = 100 pixels; the limit is 99"):
        decode(data, max_pixels=99)


SEEDS = [
    encoded(Image.effect_noise((24, 24), 90).convert("RGB"), kind)
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP")
]


@given(st.data())
def test_damaged_files_raise_nothing_but_image_errors(data):
    seed = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 8))):
        seed[data.draw(st.integers(0, len(seed) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = decode(bytes(seed), max_pixels=100_000)
    except ImageError:
        return
    assert image.mode == "RGB"


def photograph(width, height):
    """A stand-in: noise of every scale, as photographs have: amplitude falls with frequency."""
    rng = np.random.default_rng(5)
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    frequencies[0, 0] = np.inf
    waves = np.fft.ifft2(np.exp(2j * np.pi * rng.random((height, width))) / frequencies).real
    light = (128 + 45 * waves / waves.std()).clip(0, 255).astype(np.uint8)
    tint = np.linspace(0, 60, width).astype(np.uint8) + np.zeros_like(light)  # smooth, as most are
    return Image.merge("YCbCr", [Image.fromarray(part) for part in (light, 100 + tint, 150 - tint)])


SMALL = Preprocess(resize=64, crop=(56, 56))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(640, 480), (517, 1033), (1025, 259), (128, 128)])
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_a_large_jpeg_decoded_at_a_fraction_keeps_the_tolerance(size, orientation, interpolation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photograph(*size).convert("RGB"), "JPEG", quality=90, exif=exif)
    preprocess = SMALL.model_copy(update={"interpolation": interpolation})
    whole = preprocess(decode(data)).astype(int)
    found = prepare(data, preprocess).astype(int)
    difference = np.abs(found - whole)
    assert difference.mean() <= JPEG_TOLERANCE
    assert difference.max() <= 8
    if size == (640, 480):
        assert difference.any()  # it really was decoded at a fraction


def test_white_noise_is_the_worst_case_and_keeps_the_tolerance():
    noise = np.random.default_rng(0).integers(0, 256, (1031, 2049, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), "JPEG", quality=90)
    difference = np.abs(prepare(data, SMALL).astype(int) - SMALL(decode(data)).astype(int))
    assert difference.mean() <= JPEG_TOLERANCE


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_what_is_not_a_large_jpeg_is_prepared_exactly(kind):
    data = encoded(photograph(127, 90).convert("RGB"), kind)
    assert np.array_equal(prepare(data, SMALL), SMALL(decode(data)))


def test_nearest_neighbour_never_sees_a_fraction():
    data = encoded(photograph(640, 480).convert("RGB"), "JPEG")
    nearest = SMALL.model_copy(update={"interpolation": "nearest"})
    assert np.array_equal(prepare(data, nearest), nearest(decode(data)))


def test_cmyk_and_grey_jpegs_are_decoded_at_a_fraction_too():
    for mode in ("CMYK", "L"):
        data = encoded(photograph(640, 480).convert("RGB").convert(mode), "JPEG", quality=90)
        difference = np.abs(prepare(data, SMALL).astype(int) - SMALL(decode(data)).astype(int))
        assert difference.mean() <= JPEG_TOLERANCE


@given(st.data())
def test_damaged_files_are_prepared_or_raise_nothing_but_image_errors(data):
    seed = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 8))):
        seed[data.draw(st.integers(0, len(seed) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = prepare(bytes(seed), Preprocess(resize=4, crop=(4, 4)), max_pixels=100_000)
    except ImageError:
        return
    assert pixels.shape == (4, 4, 3)


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 64), st.integers(1, 64))
def test_any_picture_becomes_the_models_size(width, height, crop_height, crop_width):
    preprocess = Preprocess(resize=32, crop=(crop_height, crop_width))
    pixels = preprocess(Image.new("RGB", (width, height), "white"))
    assert pixels.shape == (crop_height, crop_width, 3)
    assert pixels.dtype == np.uint8


def test_the_crop_is_central():
    image = Image.new("RGB", (60, 30), "white")
    image.paste((255, 0, 0), (20, 5, 40, 25))
    pixels = Preprocess(resize=30, crop=(20, 20), interpolation="nearest")(image)
    assert (pixels == (255, 0, 0)).all()


def test_normalising_is_the_textbook_formula():
    images = np.random.default_rng(1).integers(0, 256, (2, 3, 5, 3), dtype=np.uint8)
    preprocess = Preprocess(crop=(3, 5))
    found = normalise(images, preprocess)
    assert found.shape == (2, 3, 3, 5)
    exact = (images / 255.0 - np.array(preprocess.mean)) / np.array(preprocess.std)
    # three float32 roundings of values below 3
    np.testing.assert_allclose(found, exact.transpose(0, 3, 1, 2), atol=1e-6, rtol=0)


def test_the_default_is_the_papers_evaluation():
    assert Preprocess.for_size((224, 224)) == Preprocess()


def test_a_default_that_is_not_square_covers_the_input():
    """The shorter side alone, at 256 / 224 of 64, left 71 % of a 64 x 256 input black."""
    preprocess = Preprocess.for_size((64, 256))
    assert preprocess.resize == (73, 293)
    for size in ((640, 480), (480, 640), (300, 300), (2000, 200), (64, 256)):
        assert (preprocess(Image.new("RGB", size, "white")) == 255).all()
    assert Preprocess.for_size((96, 96)).resize == 110


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 64), st.integers(1, 64))
def test_a_box_is_covered_as_tightly_as_the_shape_allows(width, height, box_height, box_width):
    preprocess = Preprocess(resize=(box_height, box_width), crop=(1, 1))
    found_width, found_height = preprocess.resized((width, height))
    assert found_width >= box_width
    assert found_height >= box_height
    assert found_width == box_width or found_height == box_height
    square = Preprocess(resize=(box_height, box_height), crop=(1, 1))
    assert square.resized((width, height)) == Preprocess(resize=box_height).resized((width, height))


def test_large_jpegs_are_decoded_at_a_fraction_for_a_box_too():
    data = encoded(photograph(1033, 517).convert("RGB"), "JPEG", quality=90)
    preprocess = Preprocess(resize=(32, 96), crop=(28, 84))
    difference = np.abs(
        prepare(data, preprocess).astype(int) - preprocess(decode(data)).astype(int)
    )
    assert difference.mean() <= JPEG_TOLERANCE


TRANSPARENT = (200, 100, 50, 0)
OF_CHANNELS = {
    1: Preprocess(resize=4, crop=(4, 4), mean=(0.5,), std=(0.5,)),
    2: Preprocess(resize=4, crop=(4, 4), mean=(0.5,) * 2, std=(0.5,) * 2),
    4: Preprocess(resize=4, crop=(4, 4), mean=(0.5,) * 4, std=(0.5,) * 4),
}


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_every_mode_becomes_the_models_channels(channels, mode):
    preprocess = OF_CHANNELS[channels]
    picture = Image.new("L", (9, 7), 255)
    picture = Image.fromarray(np.full((7, 9), 65535, np.uint16)) if mode == "I;16" else picture
    picture = picture if mode == "I;16" else picture.convert(mode)
    pixels = preprocess(picture)
    assert (pixels.shape, pixels.dtype) == ((4, 4, channels), np.uint8)
    assert (pixels == 255).all()  # white, and opaque where there is alpha
    assert normalise(pixels[None], preprocess).shape == (1, channels, 4, 4)


def test_grey_is_weighted_as_pillow_does_and_transparency_lies_on_white():
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    assert np.unique(OF_CHANNELS[1](red)).tolist() == [76]  # 0.299 of 255
    clear = Image.new("RGBA", (4, 4), TRANSPARENT)
    assert np.unique(OF_CHANNELS[1](clear)).tolist() == [255]
    assert OF_CHANNELS[4](clear)[0, 0].tolist() == list(TRANSPARENT)
    assert OF_CHANNELS[2](clear)[0, 0].tolist() == [124, 0]


def test_a_file_with_alpha_keeps_it_for_a_model_that_takes_it():
    samples = np.random.default_rng(5).integers(0, 256, (4, 4, 4), dtype=np.uint8)
    data = encoded(Image.fromarray(samples))
    np.testing.assert_array_equal(prepare(data, OF_CHANNELS[4]), samples)
    np.testing.assert_array_equal(OF_CHANNELS[4](decode(data, mode="RGBA")), samples)


def test_a_large_grey_jpeg_is_decoded_at_a_fraction_within_the_tolerance():
    data = encoded(photograph(640, 480).convert("L"), "JPEG", quality=90)
    grey = Preprocess(resize=64, crop=(56, 56), mean=(0.5,), std=(0.5,))
    difference = np.abs(prepare(data, grey).astype(int) - grey(decode(data)).astype(int))
    assert difference.mean() <= JPEG_TOLERANCE


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)},
            r"on the 0..255 scale; .* mean \(0.485, 0.456, 0.406\) and std \(0.229, 0.224, 0.225\)",
        ),
        ({"mean": (0,) * 3, "std": (255,) * 3}, r"mean \(0.0, .*\) and std \(1.0, 1.0, 1.0\)"),
        ({"mean": (float("nan"), 0, 0)}, "mean.0.*finite number"),
        ({"std": (0.5, float("inf"), 0.5)}, "std.1.*finite number"),
        ({"std": (0.5, 0, 0.5)}, "std.1.*greater than 0"),
        ({"mean": (0.5,)}, "mean has 1 channels, std has 3"),
        ({"mean": (0.5,) * 5, "std": (0.5,) * 5}, "mean has 5 channels; pictures have 1 to 4"),
        ({"mean": (), "std": ()}, "mean has 0 channels"),
        ({"resize": (0, 4)}, "resize"),
        ({"resize": 0}, "resize"),
    ],
)
def test_what_cannot_be_a_preprocessing_is_refused_in_one_line(values, message):
    with pytest.raises(ValidationError) as caught:
        Preprocess(**values)
    assert re.search(message, problems(caught.value))
    assert "\n" not in problems(caught.value)
