"""Timing things against each other on a machine whose speed drifts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

WARM_UP = 2
"""Calls that are made and not counted: they allocate buffers and start threads."""


def alternate(
    calls: Mapping[str, Callable[[], object]], *, runs: int, budget_seconds: float
) -> dict[str, list[float]]:
    """Time several calls in turn, A B C A B C ..., so that drift hits all of them alike.

    Each turn begins with a call that is not counted: threads of the one before may still spin on
    the cores, and its data fills the caches.

    Args:
        calls: what to time, by name.
        runs: rounds to time.
        budget_seconds: after this long no new round begins, but at least one is timed.

    Returns:
        Seconds of each counted call, by name.
    """
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + budget_seconds
    for _ in range(runs):
        for name, call in calls.items():
            call()
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
        if time.perf_counter() > end:
            break
    return seconds


def median_ms(seconds: list[float]) -> float:
    """Median in milliseconds."""
    return statistics.median(seconds) * 1e3
