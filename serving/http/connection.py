"""One connection to a client: what uvicorn leaves without a bound has one here.

uvicorn waits for as long as a client likes: for the head of a request, for a body that is not read
any more, and for a client that does not take its answer. It keeps heads and trailers of any length.
It closes a connection while its client is still sending, which costs the client the answer. It also
takes the offer of another protocol for the end of HTTP/1.1: Java's client makes one with its first
request (`Upgrade: h2c`), whose body would be lost.

It is built on internals of uvicorn, which `uvicorn_internals` lists and checks; nothing else is.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from asyncio.events import TimerHandle
from collections.abc import Mapping
from http import HTTPStatus
from operator import itemgetter
from typing import Any

import httptools
from starlette.datastructures import Headers
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from lavit_deploy.common.errors import LavitError
from lavit_deploy.serving.errors import (
    HeadTimeoutError,
    HeadTooLargeError,
    MalformedRequestError,
    OverloadedError,
    RequestError,
    UnsupportedVersionError,
    kind_of,
)
from lavit_deploy.serving.http.connections.framing import check_head
from lavit_deploy.serving.http.connections.lingering import LingeringTransport
from lavit_deploy.serving.http.connections.places import Places
from lavit_deploy.serving.http.early_refusal import EARLY_REFUSAL, METRICS, PLACES, EarlyRefusal
from lavit_deploy.serving.http.proxies.forwarded import client_address
from lavit_deploy.serving.http.response_headers import SAFE_HEADERS
from lavit_deploy.serving.telemetry.metrics import Metrics
from lavit_deploy.serving.wire.problem import (
    MEDIA_TYPE,
    Problem,
    headers_of,
    picture_problem,
    whole_problem,
)

_log = logging.getLogger("serving.requests")

HEAD_BYTES = 1 << 16
"""Longest head of a request, and longest framing between two pieces of a body, bytes."""

HEAD_SECONDS = 20.0
"""Time for a head from its first byte."""

LINGER_SECONDS = 30.0
"""Time for what still comes when it is of no use any more, such as the rest of a body whose request
is answered: a client may look at the answer later."""

LINGER_PAUSE_SECONDS = 5.0
"""Time in which some of that must come, once our side is closed."""

LINGER_BYTES = 1 << 27
"""Most bytes of that."""

TAKE_SECONDS = 60.0
"""Time in which a client must take some of an answer that waits for it."""

PIPELINED = 16
"""Requests that may wait on one connection behind the one that is answered."""

_FRAMING = (b"content-length", b"transfer-encoding")

_OTHER_VERSION = ("Invalid HTTP version", "PRI/Upgrade")
"""What the parser says of HTTP/1.2, and of HTTP/2 that begins without asking."""


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
        self._unanswered = 0  # requests that the application has, or will get
        self._refusal: bytes | None = None  # comes after their answers, and is the last one
        self._crowded = False  # there is no place for this connection
        self._draining = False
        self._head = 0  # bytes of this head
        self._untold = 0  # bytes since the parser made something of them
        self._dropped = 0  # bytes that nobody wants any more
        self._declining = False
        self._waiting: TimerHandle | None = None  # for a head, or for the rest of a body
        self._taking: TimerHandle | None = None
        self._untaken = 0  # bytes of answers, when last looked at

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._line = LingeringTransport(
            transport, self.loop, seconds=LINGER_SECONDS, pause=LINGER_PAUSE_SECONDS
        )
        super().connection_made(self._line)
        self._rest()  # proxies open connections in advance
        self._take_place()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._line.ended()
        self._unset_keepalive_if_required()  # uvicorn leaves it where there was an error
        self._stop_waiting()
        if self._taking is not None:
            self._taking.cancel()

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None or self.transport.is_closing():
            self._drop(len(data))
            return
        self._unset_keepalive_if_required()
        self._between = False
        self._untold += len(data)
        try:
            self._parse(data)
        except _Refused as refused:
            self._refuse(refused.error)
        except httptools.HttpParserError as failed:
            self._refuse(_fault(failed))
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
            self._head = self._dropped = 0
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
        if self.transport.is_closing():  # the request before it was the last one
            self._in_body = self._answered_early = True
            return
        self._check_head()
        self._answered_early = self._refused_by_head()
        if not self._answered_early:
            super().on_headers_complete()
            self._until_body_comes()
        self._unanswered += 1
        self._untold = 0
        self._in_body = True
        self._stop_waiting()
        if self._answered_early:
            self.on_response_complete()

    def on_body(self, body: bytes) -> None:
        self._untold = 0
        if self._answered_early or self.cycle.response_complete:
            self._drop(len(body))
        else:
            self._body_has_come()
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

    def _check_head(self) -> None:
        if self._crowded:
            raise _Refused(OverloadedError("there is no place for one more connection"))
        if len(self.pipeline) >= PIPELINED:
            raise _Refused(MalformedRequestError(f"more than {PIPELINED} pipelined requests"))
        try:
            check_head(self.parser.get_http_version(), self.headers)
        except RequestError as error:
            raise _Refused(error) from None
        if not _names_a_path(self.url):  # http://host alone
            super().on_url(b"/")
            if not _names_a_path(self.url):
                raise _Refused(MalformedRequestError("the request names no path"))

    def _until_body_comes(self) -> None:
        """End the connection with the answer, unless the body has come by then.

        A client that waits to be told to send its body may send it all the same, or send another
        request in its place: nobody could tell which (RFC 9110, 10.1.1).
        """
        if self.expect_100_continue:
            self._reusable, self.cycle.keep_alive = self.cycle.keep_alive, False

    def _body_has_come(self) -> None:
        if self.expect_100_continue and not (self._draining or self.cycle.response_started):
            self.cycle.keep_alive = self._reusable

    # What has its time.

    def _rest(self) -> None:
        """Wait for another request, as long as an idle connection stays open."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def timeout_keep_alive_handler(self) -> None:
        self._line.close_now()

    @property
    def _idle(self) -> bool:
        """Whether the next byte begins a head, or goes on with one."""
        return not self._in_body and not self._unanswered

    def on_response_complete(self) -> None:
        self._unanswered -= 1
        super().on_response_complete()
        if self._refusal is not None and not self._unanswered:
            self._end()
        if self._in_body and self._waiting is None and not self.transport.is_closing():
            self._waiting = self.loop.call_later(LINGER_SECONDS, self._line.close_now)
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

    # How it ends.

    def shutdown(self) -> None:
        """Take no more requests: the service stops."""
        self._draining = True
        if self.transport.is_closing():
            return
        if self._idle:
            self._line.close_now()
        else:
            super().shutdown()

    def _drop(self, count: int) -> None:
        """Hear a client out that sends what nobody wants any more, as far as it goes."""
        self._dropped += count
        if self._dropped > LINGER_BYTES:
            self._line.close_now()
        elif self.transport.is_closing():
            self._line.heard()

    def _take_place(self) -> None:
        """Take the place of a connection that can be spared, where there is no other.

        One that cannot be had gets its first request refused.
        """
        places: Places | None = self.app_state.get(PLACES)
        if places is None or len(self.connections) <= places.served:
            return
        spare = [
            (since, other._line)  # noqa: SLF001 - another of this class
            for other in self.connections
            if isinstance(other, Connection)
            and other is not self
            and (since := other._spare_since) is not None  # noqa: SLF001 - as above
        ]
        if spare:
            min(spare, key=itemgetter(0))[1].close_now()
        elif len(self.connections) > places.served + places.refused:
            self.transport.abort()
        else:
            self._crowded = True

    @property
    def _spare_since(self) -> float | None:
        """When a connection began to rest, more or less; None while it is of use."""
        if self._line.closed:
            return None
        if self.transport.is_closing():
            return 0.0
        task = self.timeout_keep_alive_task
        return None if task is None or not self._idle else task.when()

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
        path = self.url.partition(b"?")[0].decode("ascii")
        refused = refusing.refuse(path, Headers(raw=self.headers))
        if refused is None:
            return False
        problem, headers = refused
        last = (
            self._draining or parser.get_http_version() == "1.0" or not parser.should_keep_alive()
        )
        self.transport.write(self._answer(problem, headers, last=last))
        if last:
            self.transport.close()
        return True

    def _refuse(self, error: LavitError) -> None:
        """Answer what never became a request, after those that did, and close."""
        self._stop_waiting()
        request_id = uuid.uuid4().hex
        problem = whole_problem(picture_problem(error), path="", request_id=request_id)
        headers = {**headers_of(error), **SAFE_HEADERS, "X-Request-ID": request_id}
        answer = self._answer(problem, headers, last=True)
        self._refusal = answer if self._leave_body() else b""
        if not self._unanswered:
            self._end()
        metrics: Metrics | None = self.app_state.get(METRICS)
        if metrics is not None:
            metrics.error(kind_of(error))
        _log.log(
            logging.DEBUG if isinstance(error, OverloadedError) else logging.INFO,
            "not a request: %s",
            error,
            extra={
                "request_id": request_id,
                "status": error.http_status,
                "client": client_address(self.client),
                "reason": kind_of(error),
            },
        )

    def _leave_body(self) -> bool:
        """Read no more of a body that cannot be read; whether its request is still unanswered."""
        if not self._in_body:
            return True
        if self.pipeline:  # it is the last of these
            self.pipeline.popleft()
        elif self._answered_early or self.cycle.response_started:
            return False
        else:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._unanswered -= 1
        return True

    def _end(self) -> None:
        self._unset_keepalive_if_required()
        if self._refusal:
            self.transport.write(self._refusal)
        self.transport.close()

    def _answer(self, problem: Problem, headers: Mapping[str, str], *, last: bool) -> bytes:
        status = HTTPStatus(problem.status)
        body = problem.model_dump_json(exclude_defaults=True).encode()
        own = {**headers, "Content-Type": MEDIA_TYPE, "Content-Length": str(len(body))}
        if last:
            own["Connection"] = "close"
        lines = b"".join(
            (
                b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()),
                *(b"%b: %b\r\n" % line for line in self.server_state.default_headers),
                *(f"{name}: {value}\r\n".encode("ascii") for name, value in own.items()),
            )
        )
        return lines + b"\r\n" + body


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """Stops the parser."""

    def __init__(self, error: LavitError) -> None:
        super().__init__(str(error))
        self.error = error


def _too_large() -> HeadTooLargeError:
    return HeadTooLargeError(f"the head of the request is longer than {HEAD_BYTES:,} bytes")


def _fault(failed: httptools.HttpParserError) -> LavitError:
    """What stopped the parser."""
    reason = failed.__context__ or failed  # of a callback, or the parser's own
    if isinstance(reason, _Refused):
        return reason.error
    if any(mark in str(reason) for mark in _OTHER_VERSION):
        return UnsupportedVersionError("another HTTP than 1.0 and 1.1 is not spoken here")
    return MalformedRequestError(f"the request is not valid HTTP/1.1: {reason}")


def _names_a_path(target: bytes) -> bool:
    try:
        return httptools.parse_url(target).path is not None
    except httptools.HttpParserInvalidURLError:  # CONNECT's has a host and a port
        return False
