"""One connection to a client: what uvicorn leaves without a bound has one here.

uvicorn waits for as long as a client likes: for the head of a request, for a body that is not read
any more, and for a client that does not take its answer. It keeps heads and trailers of any length.
It also takes the offer of another protocol for the end of HTTP/1.1: Java's client makes one with
its first request (`Upgrade: h2c`), whose body would be lost.

It is built on internals of uvicorn, which `uvicorn_internals` lists and checks; nothing else is.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from asyncio.events import TimerHandle
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import httptools
from starlette.datastructures import Headers
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from lavit_deploy.serving.errors import (
    HeadTimeoutError,
    HeadTooLargeError,
    MalformedRequestError,
    RequestError,
    kind_of,
)
from lavit_deploy.serving.http.early_refusal import EARLY_REFUSAL, METRICS, EarlyRefusal
from lavit_deploy.serving.telemetry.metrics import Metrics
from lavit_deploy.serving.wire.problem import MEDIA_TYPE, Problem, picture_problem, whole_problem

_log = logging.getLogger("serving.requests")

HEAD_BYTES = 1 << 16
"""Longest head of a request, and longest framing between two pieces of a body, bytes."""

HEAD_SECONDS = 20.0
"""Time for a head from its first byte."""

LINGER_SECONDS = 30.0
"""Time for the rest of a body whose request is answered: a client may look at the answer later."""

TAKE_SECONDS = 60.0
"""Time in which a client must take some of an answer that waits for it."""

PIPELINED = 16
"""Requests that may wait on one connection behind the one that is answered."""

_FRAMING = (b"content-length", b"transfer-encoding")


class Connection(HttpToolsProtocol):
    """HTTP/1.1 with one client, for `uvicorn.Config(http=Connection, ws="none")`."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._in_body = False  # a head is complete, its message is not
        self._between = False  # what came last ended a message
        self._answered_early = False  # this message was answered by its head
        self._head = 0  # bytes of this head
        self._untold = 0  # bytes since the parser made something of them
        self._declining = False
        self._waiting: TimerHandle | None = None  # for a head, or for the rest of a body
        self._taking: TimerHandle | None = None
        self._untaken = 0  # bytes of answers, when last looked at

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._rest()  # proxies open connections in advance

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn leaves it where there was an error
        self._stop_waiting()
        if self._taking is not None:
            self._taking.cancel()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._between = False
        self._untold += len(data)
        try:
            self._parse(data)
        except _Refused as refused:
            self._refuse(refused.error)
        except httptools.HttpParserError as failed:
            reason = failed.__context__ or failed  # of a callback, or the parser's own
            if isinstance(reason, _Refused):
                self._refuse(reason.error)
            else:
                self._refuse(MalformedRequestError(f"the request is not valid HTTP/1.1: {reason}"))
        if self._idle and self._waiting is None and not self.transport.is_closing():
            if self._between:
                self._rest()
            else:
                self._waiting = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def _parse(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            try:
                self.parser.feed_data(left)
            except httptools.HttpParserUpgrade as offer:
                left = left[offer.args[0] :]
                self._decline()
            else:
                break
        if self._untold > HEAD_BYTES:
            raise _Refused(_too_large())

    def _decline(self) -> None:
        """Go on in HTTP/1.1 (RFC 9110, 7.8), with a parser that only knows how the body ends."""
        framing = b"".join(
            b"%b: %b\r\n" % (name, value) for name, value in self.headers if name in _FRAMING
        )
        self.parser = httptools.HttpRequestParser(self)
        # As uvicorn's: a request may follow one after which the client wants to close.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._declining = True
        try:
            self.parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n")
        finally:
            self._declining = False

    # What the parser tells.

    def on_message_begin(self) -> None:
        if not self._declining:
            self._head = 0
            self._between = False
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._declining:
            self._grow(len(url))
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers are no headers: a proxy that checks or removes headers has not seen them.
        if not (self._in_body or self._declining):
            self._grow(len(name) + len(value) + len(b": \r\n"))
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._declining:
            return
        if len(self.pipeline) >= PIPELINED:
            raise _Refused(MalformedRequestError(f"more than {PIPELINED} pipelined requests"))
        self._answered_early = self._refused_by_head()
        if not self._answered_early:
            super().on_headers_complete()
        self._untold = 0
        self._in_body = True
        self._stop_waiting()
        if self._answered_early:
            self.on_response_complete()

    def on_body(self, body: bytes) -> None:
        self._untold = 0
        if not self._answered_early:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # its body has not begun: `_decline`
        self._untold = 0
        self._in_body = False
        self._between = True
        self._stop_waiting()
        if not self._answered_early:
            super().on_message_complete()

    def _grow(self, count: int) -> None:
        self._head += count
        if self._head > HEAD_BYTES:
            raise _Refused(_too_large())

    # What has its time.

    def _rest(self) -> None:
        """Wait for another request, as long as an idle connection stays open."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    @property
    def _idle(self) -> bool:
        """Whether the next byte begins a head, or goes on with one."""
        return not self._in_body and (self.cycle is None or self.cycle.response_complete)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body and self._waiting is None:
            self._waiting = self.loop.call_later(LINGER_SECONDS, self.transport.close)
        self._watch_taking()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_taking()

    def _watch_taking(self) -> None:
        self._untaken = self.transport.get_write_buffer_size()
        if self._untaken and self._taking is None:
            self._taking = self.loop.call_later(TAKE_SECONDS, self._look_at_taking)

    def _look_at_taking(self) -> None:
        """End a connection whose client takes nothing; closing it would wait for the client."""
        self._taking = None
        if 0 < self._untaken <= self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self._watch_taking()

    def _head_is_late(self) -> None:
        self._refuse(
            HeadTimeoutError(f"the head of the request did not arrive within {HEAD_SECONDS:g} s")
        )

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    # What does not reach the application.

    def _refused_by_head(self) -> bool:
        """Answer a request for which the service has no time; whether that was so.

        What is rare, or would need more than this answer, is left to the application.
        """
        refusing: EarlyRefusal | None = self.app_state.get(EARLY_REFUSAL)
        if refusing is None or not self._idle or self.expect_100_continue:
            return False
        if self.flow.write_paused:  # or answers would pile up for a client that takes none
            return False
        parser = self.parser
        if parser.get_method() != b"POST" or parser.should_upgrade():
            return False
        if parser.get_http_version() != "1.1" or not parser.should_keep_alive():
            return False
        path = self.url.partition(b"?")[0].decode("ascii")
        refused = refusing.refuse(path, Headers(raw=self.headers))
        if refused is None:
            return False
        self._answer(*refused)
        return True

    def _refuse(self, error: RequestError) -> None:
        """Answer what never became a request, and close."""
        request_id = uuid.uuid4().hex
        if self._may_answer:
            problem = whole_problem(picture_problem(error), path="", request_id=request_id)
            self._answer(problem, {"X-Request-ID": request_id, "Connection": "close"})
        self.transport.close()
        metrics: Metrics | None = self.app_state.get(METRICS)
        if metrics is not None:
            metrics.error(kind_of(error))
        _log.info(
            "not a request: %s",
            error,
            extra={
                "request_id": request_id,
                "status": error.http_status,
                "client": self.client[0] if self.client else "-",
                "reason": kind_of(error),
            },
        )

    def _answer(self, problem: Problem, headers: Mapping[str, str]) -> None:
        status = HTTPStatus(problem.status)
        body = problem.model_dump_json(exclude_defaults=True).encode()
        own = (*headers.items(), ("Content-Type", MEDIA_TYPE), ("Content-Length", len(body)))
        lines = b"".join(
            (
                b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()),
                *(b"%b: %b\r\n" % line for line in self.server_state.default_headers),
                *(f"{name}: {value}\r\n".encode("ascii") for name, value in own),
            )
        )
        self.transport.write(lines + b"\r\n" + body)

    @property
    def _may_answer(self) -> bool:
        """Whether nothing else is being answered, so that an answer is no other request's."""
        return self._idle or (
            self._in_body
            and not (self._answered_early or self.pipeline or self.cycle.response_started)
        )


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """Stops the parser."""

    def __init__(self, error: RequestError) -> None:
        super().__init__(str(error))
        self.error = error


def _too_large() -> HeadTooLargeError:
    return HeadTooLargeError(f"the head of the request is longer than {HEAD_BYTES:,} bytes")
