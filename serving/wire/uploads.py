"""Pictures out of a request's body, read piece by piece under limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NoReturn

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from lavit_deploy.serving.errors import (
    BodyTooLargeError,
    ClientGoneError,
    MalformedUploadError,
    NoPictureError,
    OverloadedError,
    TooManyPicturesError,
    UnsupportedBodyError,
    UploadTimeoutError,
)
from lavit_deploy.serving.telemetry.timeline import READ, Timeline
from lavit_deploy.serving.wire.json_body import read_json
from lavit_deploy.serving.wire.request_decompression import unpacker

MULTIPART = "multipart/form-data"
RAW = "application/octet-stream"
JSON = "application/json"
_EXPECTED = f"expected {MULTIPART} with files, {JSON} with base64, image/*, or {RAW}"
LONG = 1 << 18
"""Bytes of JSON whose parsing would hold up the event loop for a millisecond or more."""


@dataclass(frozen=True, slots=True)
class Upload:
    """One picture as it was sent.

    Attributes:
        name: the file's name as the client gives it, if it gives one.
        data: its bytes.
    """

    name: str | None
    data: bytes


@dataclass(frozen=True)
class Uploads:
    """The pictures of one request.

    Attributes:
        pictures: in the order they were sent; never empty.
        several: whether the client sent a list (more than one file), so that it expects an
            answer for each.
    """

    pictures: tuple[Upload, ...]

    @property
    def several(self) -> bool:
        return len(self.pictures) > 1


class UploadBudget:
    """Bytes of request bodies that may be in memory at the same time, over all requests.

    Args:
        limit: that number of bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0

    def take(self, count: int) -> None:
        """Account for `count` more bytes.

        Raises:
            OverloadedError: they do not fit.
        """
        if self._held + count > self._limit:
            raise OverloadedError(
                f"uploads in progress hold {self._held:,} bytes and the limit is {self._limit:,}"
            )
        self._held += count

    def give(self, count: int) -> None:
        """Give `count` bytes back."""
        self._held -= count


@dataclass(frozen=True, kw_only=True)
class UploadLimits:
    """Limits on one request's body.

    Attributes:
        max_bytes: bytes of the whole body.
        max_files: pictures in it.
        seconds: time it may take to arrive.
    """

    max_bytes: int
    max_files: int
    seconds: float


class UploadReader:
    """Reads the pictures of requests under limits and a budget that all requests share."""

    def __init__(self, limits: UploadLimits, budget: UploadBudget) -> None:
        self._limits = limits
        self._budget = budget

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[Uploads]:
        """Read a body: a form of files, JSON with base64, or one picture as it is.

        Its bytes count against the budget until the block ends.

        Raises:
            RequestError: the body breaks a rule or a limit; the subclass says which.
            OverloadedError: uploads in progress fill the memory set aside for them.
        """
        sink = _sink_for(request, self._limits.max_files)
        async with self._receive(request, sink) as held:
            if isinstance(sink, _Json) and held > LONG:
                yield Uploads(await asyncio.to_thread(sink.finish))
            else:
                yield Uploads(sink.finish())

    @asynccontextmanager
    async def read_bytes(self, request: Request) -> AsyncIterator[bytes]:
        """Read a body of any kind, whole; limits and errors are those of `read`."""
        sink = _Whole()
        async with self._receive(request, sink):
            yield bytes(sink.data)

    @asynccontextmanager
    async def _receive(self, request: Request, sink: _Whole | _Form) -> AsyncIterator[int]:
        """Give a body to a sink piece by piece; its length once it is there."""
        self._check_length(request)
        unpack, end = unpacker(request.headers.get("content-encoding", ""))
        held = 0
        try:
            try:
                with Timeline.current().shared.stage(READ):
                    async with asyncio.timeout(self._limits.seconds):
                        async for chunk in request.stream():
                            for piece in unpack(chunk):
                                self._check_size(held + len(piece))
                                self._budget.take(len(piece))
                                held += len(piece)
                                sink.write(piece)
            except TimeoutError:
                raise UploadTimeoutError(
                    f"the body did not arrive within {self._limits.seconds:g} s"
                ) from None
            except ClientDisconnect:
                raise ClientGoneError("the client left while it was sending") from None
            end()
            yield held
        finally:
            self._budget.give(held)

    def _check_length(self, request: Request) -> None:
        """Refuse by Content-Length, before a byte is read."""
        given = request.headers.get("content-length", "0")
        if not (given.isascii() and given.isdigit()):
            raise MalformedUploadError(f"Content-Length {given!r} is not a number of bytes")
        self._check_size(int(given))

    def _check_size(self, size: int) -> None:
        if size > self._limits.max_bytes:
            raise BodyTooLargeError(
                f"the body has {size:,} bytes or more; the limit is {self._limits.max_bytes:,}"
            )


def _sink_for(request: Request, max_files: int) -> _Raw | _Json | _Form:
    """What to do with the body, by its Content-Type."""
    given = request.headers.get("content-type", "")
    media_type, parameters = parse_options_header(given)
    kind = media_type.decode("latin-1").lower()
    if kind == JSON:
        return _Json(max_files)
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise UnsupportedBodyError(
            f"Content-Encoding {encoding!r} is taken of {JSON} only; send pictures as they are"
        )
    if kind == MULTIPART:
        return _Form(parameters.get(b"boundary", b""), max_files)
    if kind.startswith("image/") or kind == RAW:
        return _Raw()
    if not given:
        raise UnsupportedBodyError(f"the request has no Content-Type; {_EXPECTED}")
    raise UnsupportedBodyError(f"Content-Type {given!r} is not taken; {_EXPECTED}")


class _Whole:
    """The body as it is."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, chunk: bytes) -> None:
        self.data += chunk


class _Raw(_Whole):
    """The body is one picture."""

    def finish(self) -> tuple[Upload, ...]:
        if not self.data:
            raise NoPictureError(f"the body is empty; {_EXPECTED}")
        return (Upload(None, bytes(self.data)),)


class _Json(_Whole):
    """The body is JSON with pictures in base64."""

    def __init__(self, max_files: int) -> None:
        super().__init__()
        self._max_files = max_files

    def finish(self) -> tuple[Upload, ...]:
        pictures = read_json(bytes(self.data), self._max_files)
        return tuple(Upload(picture.name, picture.data) for picture in pictures)


@dataclass(slots=True)
class _Part:
    """One part of a form while it arrives."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    header_name: bytes = b""
    header_value: bytes = b""
    file_name: str = ""
    data: bytearray = field(default_factory=bytearray)


class _Form:
    """The body is a multipart form (RFC 7578); every part of it must be a file."""

    def __init__(self, boundary: bytes, max_files: int) -> None:
        if not boundary:
            raise MalformedUploadError(f"the Content-Type {MULTIPART} names no boundary")
        self._max_files = max_files
        self._uploads: list[Upload] = []
        self._part = _Part()
        self._begun = self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._header_name,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_part_data": self._data,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            _refuse(error)

    def write(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            _refuse(error)

    def finish(self) -> tuple[Upload, ...]:
        if self._begun and not self._ended:
            raise MalformedUploadError("the form ends before its closing boundary")
        if not self._uploads:
            raise NoPictureError("the form has no file; add one with -F file=@picture.jpg")
        return tuple(self._uploads)

    def _begin(self) -> None:
        self._begun = True
        self._part = _Part()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._part.header_name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.header_value += data[start:end]

    def _header_end(self) -> None:
        part = self._part
        part.headers[part.header_name.lower()] = part.header_value
        part.header_name = part.header_value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._part.headers.get(b"content-disposition", b""))
        field_name = options.get(b"name", b"").decode("utf-8", "replace")
        if b"filename" not in options:
            raise MalformedUploadError(
                f"the form field {field_name[:40]!r} is not a file; "
                "options such as top_k go into the query"
            )
        if len(self._uploads) == self._max_files:
            raise TooManyPicturesError(f"more than {self._max_files} files in one request")
        self._part.file_name = options[b"filename"].decode("utf-8", "replace")

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._part.data += data[start:end]

    def _end_part(self) -> None:
        self._uploads.append(Upload(self._part.file_name or None, bytes(self._part.data)))

    def _end(self) -> None:
        self._ended = True


def _refuse(error: FormParserError) -> NoReturn:
    raise MalformedUploadError(f"the form cannot be read: {error}") from None
