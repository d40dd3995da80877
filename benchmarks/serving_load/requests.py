"""Requests as bytes, made once and sent again and again."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

_BOUNDARY = "lavit-load-0f3c1a77"


def form(url: str, field: str, picture: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """A POST of one JPEG as a form, `multipart/form-data`: what every server here takes."""
    head = (
        f"--{_BOUNDARY}\r\n"
        f'Content-Disposition: form-data; name="{field}"; filename="picture.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    ).encode()
    body = head + picture + f"\r\n--{_BOUNDARY}--\r\n".encode()
    return post(url, f"multipart/form-data; boundary={_BOUNDARY}", body, headers)


def post(url: str, kind: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """A POST of any body."""
    parts = urlsplit(url)
    lines = {
        "Host": parts.netloc,
        "Accept": "application/json",
        "Content-Type": kind,
        "Content-Length": str(len(body)),
        **(headers or {}),
    }
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    text = f"POST {path} HTTP/1.1\r\n" + "".join(f"{key}: {lines[key]}\r\n" for key in lines)
    return text.encode() + b"\r\n" + body
