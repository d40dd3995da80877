"""Which batch sizes draw a curve of throughput."""

from __future__ import annotations

from collections.abc import Iterator


def batch_curve(largest: int) -> Iterator[int]:
    """1, 2, 4, ... and `largest` itself, which need not be a power of two."""
    batch = 1
    while batch < largest:
        yield batch
        batch *= 2
    yield largest
