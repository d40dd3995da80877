"""Which batch sizes to pad, by what was measured: some runtimes are faster at some larger size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lavit_deploy.manifest import BatchTiming

_WORTH = 0.95
"""A larger batch must take less than this share of the smaller one's time: medians of the same
measurement differ by a few per cent."""


@dataclass(frozen=True)
class PaddedSizes:
    """Batch sizes of one artifact.

    Attributes:
        minimum: smallest batch the artifact takes; smaller ones are padded to it.
        maximum: largest batch to run.
        milliseconds: measured time of a batch by its size.
    """

    minimum: int
    maximum: int
    milliseconds: Mapping[int, float] = field(default_factory=dict)

    @classmethod
    def measured(
        cls, minimum: int, maximum: int, timings: Iterable[BatchTiming], threads: int | None
    ) -> PaddedSizes:
        """Sizes by the timings that were measured with so many threads (None: all)."""
        milliseconds = {item.batch: item.median_ms for item in timings if item.threads == threads}
        return cls(minimum, maximum, milliseconds)

    def padded(self, size: int) -> int:
        """The size to run `size` pictures at; larger only where that was measured to be faster.

        A size that was not measured takes no less than the next smaller one that was.

        Args:
            size: pictures, 1..maximum.
        """
        size = max(size, self.minimum)
        smaller = [known for known in self.milliseconds if known <= size]
        larger = [known for known in self.milliseconds if size < known <= self.maximum]
        if not smaller or not larger:
            return size
        best = min(larger, key=lambda known: (self.milliseconds[known], known))
        worth = self.milliseconds[best] < _WORTH * self.milliseconds[max(smaller)]
        return best if worth else size

    def to_warm_up(self) -> list[int]:
        """Sizes to run at the warm-up: the smallest, the largest, and every one padded to."""
        smallest = max(1, self.minimum)
        padded = {
            self.padded(size) for size in range(smallest, self.maximum) if self.padded(size) != size
        }
        return sorted({smallest, max(smallest, self.maximum), *padded})
