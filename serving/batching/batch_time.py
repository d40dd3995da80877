"""How long batches take, so that a wait can be predicted."""

from __future__ import annotations

import math

import numpy as np

_NEWEST = 0.2
"""Weight of the newest batch in the average that corrects the predictions."""


class BatchTimeModel:
    """Seconds of a batch by its size: measured at the warm-up, corrected by every later batch.

    A line through the measured sizes gives the others; one factor, the average of what batches
    took over what was predicted, follows the load of the machine.
    """

    def __init__(self) -> None:
        self._measured: dict[int, float] = {}
        self._slowness = 1.0
        self._known: dict[int, float] = {}

    def measured(self, size: int, seconds: float) -> None:
        """Take a time of the warm-up: one batch of `size` on an idle machine."""
        self._measured[size] = seconds
        self._known.clear()

    def observed(self, size: int, seconds: float) -> None:
        """Correct the predictions by a batch that was served."""
        if unloaded := self._unloaded(size):
            self._slowness += _NEWEST * (seconds / unloaded - self._slowness)

    def seconds(
        self, pictures: int, max_batch: int, *, idle: bool = False, instances: int = 1
    ) -> float:
        """Time to run so many pictures: full batches, and one with the rest; 0 if never measured.

        Args:
            pictures: how many.
            max_batch: size of a full batch.
            instances: batches that run at the same time.
            idle: nothing else runs, so batches take what they took at the warm-up. Without this,
                a stall could make every prediction too long for every client, and no batch would
                ever run that corrects it.
        """
        full, rest = divmod(pictures, max_batch)
        of_full = self._unloaded(max_batch)
        # The rest begins when the first instance is free, maybe beside the last full batches.
        ends = full // instances * of_full + (self._unloaded(rest) if rest else 0.0)
        unloaded = max(math.ceil(full / instances) * of_full, ends)
        return unloaded if idle else self._slowness * unloaded

    def _unloaded(self, size: int) -> float:
        """Time of a batch that was not slowed down; every request asks for some of them."""
        if size not in self._known:
            self._known[size] = self._between(size)
        return self._known[size]

    def _between(self, size: int) -> float:
        if not self._measured:
            return 0.0
        sizes = sorted(self._measured)
        return float(np.interp(size, sizes, [self._measured[known] for known in sizes]))
