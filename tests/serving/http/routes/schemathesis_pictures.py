"""Hooks for schemathesis: where a description says "binary", a client sends pictures."""

import io

import schemathesis
from hypothesis import strategies as st
from PIL import Image

_buffer = io.BytesIO()
Image.new("RGB", (16, 12), (10, 200, 30)).save(_buffer, "PNG")
_pictures = st.just(_buffer.getvalue())

for _kind in ("jpeg", "png", "webp", "gif", "bmp", "tiff", "avif", "heic", "heif"):
    schemathesis.openapi.media_type(f"image/{_kind}", _pictures)
schemathesis.openapi.media_type("application/octet-stream", _pictures)
schemathesis.openapi.format("binary", _pictures)
