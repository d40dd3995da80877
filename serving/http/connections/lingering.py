"""The end of a connection in two steps: first nothing more is said, later nothing more is heard.

A connection that is closed while something of its client's is unread is reset, and a reset takes
with it what the client has not read yet: of an early 401 or 413 a proxy then makes a 502. So our
side is closed first, and what still comes is dropped for a while (RFC 9112, 9.6).
"""

from __future__ import annotations

import asyncio
from asyncio.events import TimerHandle
from typing import Any


class LingeringTransport(asyncio.Transport):
    """A transport whose `close` waits for the client's end; what it hears then is to be dropped.

    Args:
        inner: the event loop's own.
        loop: that event loop.
        seconds: longest wait from `close` on.
        pause: longest wait for the next bytes, seconds.
    """

    def __init__(
        self,
        inner: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        *,
        seconds: float,
        pause: float,
    ) -> None:
        super().__init__()
        self._inner = inner
        self._loop = loop
        self._seconds = seconds
        self._pause = pause
        self._lingering = False
        self._until = 0.0  # on the loop's clock
        self._timer: TimerHandle | None = None

    def close(self) -> None:
        """Send what is written and then the end; hear the client out, as long as it may take."""
        if self.is_closing():
            return
        self._lingering = True
        self._until = self._loop.time() + self._seconds
        try:
            self._inner.write_eof()
        except OSError:  # the client has gone
            self._inner.abort()
            return
        self._inner.resume_reading()
        self.heard()

    def close_now(self) -> None:
        """Send what is written and close."""
        self.ended()
        self._lingering = True
        self._inner.close()

    def abort(self) -> None:
        """Close, whatever is still to be sent."""
        self.ended()
        self._lingering = True
        self._inner.abort()

    def heard(self) -> None:
        """Wait on: something has come after `close`."""
        self.ended()
        at = min(self._until, self._loop.time() + self._pause)
        self._timer = self._loop.call_at(at, self._inner.close)

    def ended(self) -> None:
        """The connection is no more; nothing is waited for."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def is_closing(self) -> bool:
        return self._lingering or self._inner.is_closing()

    @property
    def closed(self) -> bool:
        """Whether nothing is heard any more, either."""
        return self._inner.is_closing()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send something; after the end nothing is, whoever still tries."""
        if not self.is_closing():
            self._inner.write(data)

    def pause_reading(self) -> None:
        if not self.is_closing():
            self._inner.pause_reading()

    def resume_reading(self) -> None:
        if not self.is_closing():
            self._inner.resume_reading()

    def get_write_buffer_size(self) -> int:
        return self._inner.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - asyncio's signature
        return self._inner.get_extra_info(name, default)
