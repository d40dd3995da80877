"""HTTP/1.1 connections that are kept alive, as cheap as Python makes them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from urllib.parse import urlsplit

import httptools

IDLE_SECONDS = 60.0
"""Idle connections are not used after that: a server may be closing them at that moment, and the
request would be lost. Proxies do the same, with the same time."""

LOST = 0
"""Status of a request whose connection was lost before the answer was whole."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer.

    Attributes:
        status: HTTP status, or `LOST`.
        body: its bytes as they came.
    """

    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """One connection with at most one request under way."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._reply: asyncio.Future[Reply] | None = None
        self._body: list[bytes] = []
        self._since = 0.0
        self.usable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.rest()
        self._transport = transport  # type: ignore[assignment] # a TCP transport can write

    @property
    def fresh(self) -> bool:
        """Whether it can be expected to be open still."""
        return self.usable and time.monotonic() - self._since < IDLE_SECONDS

    def rest(self) -> None:
        """Begin to be idle."""
        self._since = time.monotonic()

    def send(self, request: bytes) -> asyncio.Future[Reply]:
        """Send a whole request; the future resolves with the answer and never fails."""
        self._reply = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._body = []
        self._transport.write(request)
        return self._reply

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, AttributeError):  # an answer to no request is neither
            self.abort()

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self.usable = self.usable and self._parser.should_keep_alive()
        if not self.usable:
            self._transport.close()
        self._resolve(Reply(self._parser.get_status_code(), b"".join(self._body)))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.usable = False
        self._resolve(Reply(LOST, b""))

    def _resolve(self, reply: Reply) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_result(reply)

    def abort(self) -> None:
        """Drop the connection."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()


class Pool:
    """Connections to one server, opened as they are needed.

    Args:
        url: of the server; its path is not used.
        most: connections at the same time; further requests wait for one to become free, and their
            latency with them.
    """

    def __init__(self, url: str, most: int) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._idle: deque[Connection] = deque()
        self._free = asyncio.Semaphore(most)

    async def open(self, count: int) -> None:
        """Have so many connections ready."""
        self._idle.extend([await self._connect() for _ in range(count)])

    async def request(self, data: bytes) -> Reply:
        """Send one request on a connection of its own and wait for its answer."""
        async with self._free:
            while self._idle:
                # The newest first, so that a calm phase lets the others grow old unused.
                connection = self._idle.pop()
                if connection.fresh:
                    break
                connection.abort()
            else:
                try:
                    connection = await self._connect()
                except OSError:
                    return Reply(LOST, b"")
            try:
                reply = await connection.send(data)
            except asyncio.CancelledError:
                connection.abort()
                raise
            if connection.usable:
                connection.rest()
                self._idle.append(connection)
            return reply

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, self._host, self._port)
        return connection

    def close(self) -> None:
        """Drop all idle connections."""
        for connection in self._idle:
            connection.abort()
        self._idle.clear()
