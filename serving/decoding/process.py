"""One decoder in a process of its own: what a hostile picture breaks there, breaks nothing here.

The parent sends a picture's preprocessing and its bytes, the child answers with pixels or with an
error. Nothing is pickled on the way back: a child that a picture has taken over can only send wrong
pixels and wrong words.
"""

from __future__ import annotations

import atexit
import json
import logging
import math
import multiprocessing
import os
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from lavit_deploy.common.errors import (
    CorruptImageError,
    ImageError,
    ImageTooLargeError,
    UnsupportedImageError,
)
from lavit_deploy.preprocess import Pixels, Preprocess, prepare
from lavit_deploy.serving.decoding.picture_formats import Formats
from lavit_deploy.serving.errors import DecoderCrashError, DecodingTimeoutError

_log = logging.getLogger("serving.decoding")

BYTES_PER_PIXEL = 16
"""Memory that a picture of the largest size may need: four bytes, and copies on the way to RGB."""

LEAST_MEMORY = 512 << 20
"""Memory that a decoder may have whatever the pixel limit, bytes."""

_ERRORS: dict[str, type[ImageError]] = {
    error.__name__: error
    for error in (ImageError, CorruptImageError, ImageTooLargeError, UnsupportedImageError)
}
_LONGEST_TRACE = 8000  # characters of which JSON makes at most six bytes each
_LONGEST_ANSWER = 1 << 16  # bytes
_START_SECONDS = 60.0  # for a child's imports, on a busy machine


class DecoderFaultError(Exception):
    """A fault of ours in the child; holds its traceback."""


@dataclass(frozen=True, slots=True)
class DecoderLimits:
    """What one picture may cost.

    Attributes:
        max_pixels: largest width * height, by the header.
        seconds: longest time to decode it.
    """

    max_pixels: int
    seconds: float

    @property
    def memory(self) -> int:
        """Memory that decoding may need on top of the program's own, bytes."""
        return max(LEAST_MEMORY, BYTES_PER_PIXEL * self.max_pixels)


Work = Callable[[bytes, Preprocess], Pixels]


class DecoderProcess:
    """A child process that decodes one picture at a time; replaced when it dies or hangs.

    One thread at a time decodes; any thread may close.

    Args:
        limits: what one picture may cost.
        job: makes what the child runs for each picture; for tests.
    """

    def __init__(
        self, limits: DecoderLimits, job: Callable[[DecoderLimits], Work] | None = None
    ) -> None:
        self._limits = limits
        self._job = job or _prepare
        # A fork would copy locks that other threads hold.
        self._context = multiprocessing.get_context("spawn")
        self._lock = threading.Lock()
        self._closed = False
        self._start()
        # At exit multiprocessing asks children to end and waits, and ours do not listen to that.
        atexit.register(self.close)

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        _bound(self._pipe, self._limits.seconds)
        self._process = self._context.Process(
            target=_work, args=(theirs, self._limits, self._job), name="decoder", daemon=True
        )
        self._process.start()
        theirs.close()
        self._ready = False

    @property
    def pid(self) -> int | None:
        """The child's process id."""
        return self._process.pid

    def decode(self, data: bytes, preprocess: Preprocess) -> Pixels:
        """Decode, resize and crop one picture.

        Raises:
            ImageError: the bytes are no picture that can be used; says why.
            DecodingTimeoutError: it took longer than the limit.
            DecoderCrashError: the child died of it.
            DecoderFaultError: a fault of ours.
        """
        if self._ready and not self._process.is_alive():  # killed while it had nothing to do
            self._replace()
        self._await_start()
        try:
            self._pipe.send_bytes(preprocess.model_dump_json().encode())
            self._pipe.send_bytes(data)
            if not self._pipe.poll(self._limits.seconds):
                raise BlockingIOError  # noqa: TRY301 - as of a pipe that nobody reads
            answer = self._pipe.recv_bytes(_LONGEST_ANSWER)
            pixels = self._pipe.recv_bytes(math.prod(preprocess.shape))
        except BlockingIOError:
            self._replace()
            raise DecodingTimeoutError(
                f"the picture takes longer than {self._limits.seconds:g} s to decode"
            ) from None
        except (EOFError, OSError):
            code = self._replace()
            _log.error("a decoder died of a picture (exit code %s) and is replaced", code)
            raise DecoderCrashError("the picture broke its decoder; it is damaged") from None
        return _unpack(json.loads(answer), pixels)

    def _await_start(self) -> None:
        """Wait until the child has imported its libraries, so that no picture pays for that."""
        if self._ready:
            return
        try:
            in_time = self._pipe.poll(_START_SECONDS) and self._pipe.recv_bytes()
        except (EOFError, OSError):
            in_time = False
        if not in_time:
            self._replace()
            raise DecoderFaultError("a decoder did not start")
        self._ready = True

    def _replace(self) -> int | None:
        """End the child and start another one.

        Returns:
            The exit code of the old one; negative: the signal it died of.
        """
        self._process.join(0.1)  # one that crashed has a code of its own
        code = self._process.exitcode
        with self._lock:
            self._end()
            if not self._closed:
                self._start()
        return code

    def close(self) -> None:
        """End the child at once, whatever it does."""
        atexit.unregister(self.close)
        with self._lock:
            self._closed = True
            self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.join()


def _bound(pipe: Connection, seconds: float) -> None:
    """Let no single read or write wait for longer, for a child that is stopped never answers."""
    if sys.platform == "win32":
        return
    time_of_day = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
    with socket.socket(fileno=os.dup(pipe.fileno())) as same:
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            same.setsockopt(socket.SOL_SOCKET, option, time_of_day)


def _unpack(answer: dict[str, Any], pixels: bytes) -> Pixels:
    """The child's answer as pixels, or as the error that it is."""
    error = answer.get("error")
    if error is None:
        return np.frombuffer(pixels, dtype=np.uint8).reshape(answer["size"])  # [H, W, C]
    if error in _ERRORS:
        raise _ERRORS[error](str(answer["text"]))
    raise DecoderFaultError(str(answer["text"]))


def _prepare(limits: DecoderLimits) -> Work:
    """What a child runs: `lavit_deploy.preprocess.prepare` under the limits."""
    formats = Formats.available().names

    def work(data: bytes, preprocess: Preprocess) -> Pixels:
        return prepare(data, preprocess, max_pixels=limits.max_pixels, formats=formats)

    return work


def _work(pipe: Connection, limits: DecoderLimits, job: Callable[[DecoderLimits], Work]) -> None:
    """The child's main loop: pictures until the parent closes the pipe or is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent drains, then ends us
        signal.signal(number, signal.SIG_IGN)
    work = job(limits)
    _confine(limits.memory)
    try:
        pipe.send_bytes(b"ready")
        while True:
            preprocess = Preprocess.model_validate_json(pipe.recv_bytes())
            for part in _answer(work, pipe.recv_bytes(), preprocess):
                pipe.send_bytes(part)
    except (EOFError, OSError):
        return


def _answer(work: Work, data: bytes, preprocess: Preprocess) -> tuple[bytes, memoryview | bytes]:
    """A description and, where all is well, the pixels."""
    try:
        pixels = np.ascontiguousarray(work(data, preprocess))
    except ImageError as error:
        return json.dumps({"error": type(error).__name__, "text": str(error)}).encode(), b""
    except MemoryError:
        error_text = "the picture does not fit in a decoder's memory"
        return json.dumps({"error": "ImageTooLargeError", "text": error_text}).encode(), b""
    except Exception:  # noqa: BLE001 - the parent logs it
        return json.dumps({"error": "fault", "text": traceback.format_exc()[-9999:]}).encode(), b""
    return json.dumps({"size": pixels.shape}).encode(), pixels.data.cast("B")


def _confine(memory: int) -> None:
    """Bound what this process may allocate from now on, where the system can."""
    if sys.platform == "win32":
        return
    import resource

    used = 0
    if sys.platform == "linux":
        with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - not a file
            used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
