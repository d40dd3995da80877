"""How late the event loop is."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

_EVERY = 0.005
"""Seconds between looks at the clock."""

LONGEST_LAG = 0.01
"""Seconds by which a look may be late: beyond, accepted requests wait for the loop itself."""


class LoopLag:
    """How late the event loop is with what it should do now.

    A loop that has more to do than time keeps every callback waiting in one line; the delay of a
    timer is the length of that line.
    """

    def __init__(self) -> None:
        self._due = 0.0
        self._late = 0.0
        self._watching: asyncio.Task[None] | None = None

    @property
    def seconds(self) -> float:
        """The delay; also of a look that is late at this moment."""
        if self._watching is None or self._watching.done():
            return 0.0
        return max(self._late, time.perf_counter() - self._due)

    def start(self) -> None:
        """Begin to look; needs a running event loop."""
        self._due = time.perf_counter() + _EVERY
        self._watching = asyncio.create_task(self._watch(), name="loop lag")

    async def _watch(self) -> None:
        while True:
            self._due = time.perf_counter() + _EVERY
            await asyncio.sleep(_EVERY)
            self._late = max(0.0, time.perf_counter() - self._due)

    async def stop(self) -> None:
        """End the looks."""
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
