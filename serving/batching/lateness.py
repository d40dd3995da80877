"""What predictions of a wait leave out: a quantile of how late answers really were."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque

_SHARE = 0.95


class LatenessQuantile:
    """How much longer than predicted an answer may take: the upper end of what the last ones did.

    A prediction counts batches. Decoding, the event loop and a batch that is still forming come on
    top; without them, half of what a busy service accepts is late by a little, and its work lost.

    Args:
        memory: how many of the last answers count. Under overload they come in waves, as refusals
            empty the queue; over fewer than some waves hold, the next one comes as a surprise.
    """

    def __init__(self, memory: int = 512) -> None:
        self._memory = memory
        self._excess: deque[float] = deque()
        self._ranked: list[float] = []  # the same, sorted
        self._seconds = 0.0

    @property
    def seconds(self) -> float:
        """The excess, seconds, that 95 % of the last answers stayed within; 0 without any."""
        return self._seconds

    def observe(self, seconds: float, *, predicted: float) -> None:
        """Learn from an answer, also from one that came too late to be sent.

        Args:
            seconds: from its admission.
            predicted: what was predicted then, by batches alone.
        """
        if len(self._excess) == self._memory:
            del self._ranked[bisect_left(self._ranked, self._excess.popleft())]
        self._excess.append(excess := seconds - predicted)
        insort(self._ranked, excess)
        self._seconds = self._ranked[math.ceil(_SHARE * len(self._ranked)) - 1]
