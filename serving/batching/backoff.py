"""How long to wait before trying again what keeps failing."""

from __future__ import annotations


class Backoff:
    """Delays that double with every attempt.

    Args:
        first: the first delay, seconds.
        longest: no delay is longer, seconds.
    """

    def __init__(self, first: float = 0.5, longest: float = 60.0) -> None:
        self._first = self._next = first
        self._longest = longest

    def delay(self) -> float:
        """Seconds to wait before the next attempt; the one after it waits twice as long."""
        delay = min(self._next, self._longest)
        self._next = delay * 2
        return delay

    def reset(self) -> None:
        """Begin with the first delay again: an attempt has proved itself."""
        self._next = self._first
