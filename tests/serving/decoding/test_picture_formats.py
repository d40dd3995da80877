"""Formats that depend on what is installed: AVIF by Pillow, HEIC by pillow-heif."""

import io

import numpy as np
import pytest
from PIL import Image, features

from lavit_deploy.common.errors import CorruptImageError, ImageTooLargeError, UnsupportedImageError
from lavit_deploy.preprocess import FORMATS, decode
from lavit_deploy.serving.decoding.picture_formats import Formats

TOLERANCE = 12  # of 255: flat areas of lossy formats with subsampled colour


@pytest.fixture(params=["AVIF", "HEIF"])
def kind(request):
    if request.param == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    if request.param == "HEIF":
        pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    assert request.param in Formats.available().names
    return request.param


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=90, **options)
    return buffer.getvalue()


def quarters():
    """Red, green above blue, white; 64 wide and 48 high."""
    image = Image.new("RGB", (64, 48), "white")
    image.paste((255, 0, 0), (0, 0, 32, 24))
    image.paste((0, 255, 0), (32, 0, 64, 24))
    image.paste((0, 0, 255), (0, 24, 32, 48))
    return image


def read(data):
    return np.asarray(decode(data, formats=Formats.available().names)).astype(int)


def assert_quarters(pixels):
    assert pixels.shape == (48, 64, 3)
    for (row, column), colour in {
        (12, 16): (255, 0, 0),
        (12, 48): (0, 255, 0),
        (36, 16): (0, 0, 255),
        (36, 48): (255, 255, 255),
    }.items():
        assert np.abs(pixels[row, column] - colour).max() <= TOLERANCE


def test_the_pixels_are_those_of_the_picture(kind):
    assert_quarters(read(encoded(quarters(), kind)))


def test_the_orientation_is_applied_once(kind):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by 90 degrees against the clock
    turned = quarters().transpose(Image.Transpose.ROTATE_90)
    found = read(encoded(turned, kind, exif=exif))
    if kind == "HEIF":  # the file's own property says how to turn it, and this one has none
        found = np.rot90(found, -1)  # [64, 48, 3] -> [48, 64, 3]
    assert_quarters(found)


def test_transparency_is_laid_on_white(kind):
    image = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    assert read(encoded(image, kind)).min() >= 255 - TOLERANCE


def test_the_pixel_limit_holds_by_the_header(kind):
    data = encoded(quarters(), kind)
    with pytest.raises(ImageTooLargeError, match="64 x 48 = 3,072 pixels; the limit is 3,000"):
        decode(data, max_pixels=3_000, formats=Formats.available().names)


def test_a_truncated_file_is_refused(kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises((CorruptImageError, UnsupportedImageError)):
        read(data[: len(data) // 2])


def test_the_service_takes_it_and_says_so(kind, client):
    response = client.post(
        "/classify",
        content=encoded(Image.new("RGB", (64, 64), "blue"), kind),
        headers={"Content-Type": f"image/{kind.lower()}"},
    )
    assert response.json()["results"][0]["predictions"][0]["label"] == "blue"
    body = client.get("/openapi.json").json()["paths"]["/classify"]["post"]["requestBody"]
    assert f"image/{kind.lower()}" in body["content"]


def test_every_format_of_the_project_has_a_media_type():
    found = Formats.available()
    assert set(FORMATS) <= set(found.names)
    assert {f"image/{name.lower()}" for name in FORMATS} <= set(found.media_types)
