"""Compressed request bodies, unpacked in pieces, so that a small one cannot become a huge one."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

from lavit_deploy.serving.errors import MalformedUploadError, UnsupportedBodyError

_PIECE = 1 << 16  # bytes unpacked at a time; limits are checked after each piece
_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}

Unpack = Callable[[bytes], Iterator[bytes]]


def unpacker(encoding: str) -> tuple[Unpack, Callable[[], None]]:
    """What turns the chunks of a body into its bytes.

    Args:
        encoding: the request's Content-Encoding.

    Returns:
        One function that is given each chunk, and one that is called at the end.

    Raises:
        UnsupportedBodyError: an encoding other than identity, gzip and deflate.
    """
    kind = encoding.strip().lower()
    if kind in {"", "identity"}:
        return (lambda chunk: iter((chunk,))), (lambda: None)
    if kind not in _WINDOWS:
        raise UnsupportedBodyError(
            f"Content-Encoding {encoding!r} is not taken; expected identity, gzip or deflate"
        )
    inflated = _Inflated(_WINDOWS[kind], kind)
    return inflated.unpack, inflated.end


class _Inflated:
    def __init__(self, window: int, kind: str) -> None:
        self._zlib = zlib.decompressobj(window)
        self._kind = kind
        self._begun = False

    def unpack(self, chunk: bytes) -> Iterator[bytes]:
        """The bytes that a chunk holds, in pieces of bounded size."""
        while chunk:
            self._begun = True
            try:
                piece = self._zlib.decompress(chunk, _PIECE)
            except zlib.error as error:
                raise MalformedUploadError(f"the body is not valid {self._kind}: {error}") from None
            chunk = self._zlib.unconsumed_tail
            if self._zlib.unused_data:
                raise MalformedUploadError(f"something follows the {self._kind} body")
            yield piece
            if not piece and not chunk:
                return

    def end(self) -> None:
        """Refuse a body that is cut short."""
        if self._begun and not self._zlib.eof:
            raise MalformedUploadError(f"the {self._kind} body is cut short")
