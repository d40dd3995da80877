"""Timing things against each other on a machine whose speed drifts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

WARM_UP = 2
"""Calls that are made and not counted: they allocate buffers and start threads."""

TURN = 3
"""Fewest counted calls in a turn."""

TURNS = 3
"""Fewest turns: one alone would be compared across the machine's drift."""

_TURN_SECONDS = 0.03  # of short calls, so that the wait between turns is not most of the time
_LOOK = 0.012  # seconds; the kernel counts a thread that runs on every 4 or 10 ms
_IDLE = 0.25  # cores; what remains of the process itself while it looks
_LONGEST = 0.5


def settle() -> None:
    """Wait until the threads of this process are idle; at most half a second.

    ONNX Runtime's threads spin for some 45 ms after a call, each on a core of its own. A call of
    another runtime that begins meanwhile takes up to twice its time, however often it is repeated
    before it is counted, if all of that ends within those 45 ms.
    """
    end = time.perf_counter() + _LONGEST
    while time.perf_counter() < end:
        used, began = time.process_time(), time.perf_counter()
        time.sleep(_LOOK)
        if time.process_time() - used < _IDLE * (time.perf_counter() - began):
            return


def alternate(
    calls: Mapping[str, Callable[[], object]], *, runs: int, budget_seconds: float
) -> dict[str, list[float]]:
    """Time several calls in turn, A B C A B C ..., so that drift hits all of them alike.

    Each turn begins when the threads of the one before are idle, with a call that is not counted,
    since the caches hold another's data; then at least `TURN` calls are.

    Args:
        calls: what to time, by name.
        runs: calls of each to time, at least; rounded up to whole turns.
        budget_seconds: after this long no new round begins, but at least one is timed.

    Returns:
        Seconds of each counted call, by name.
    """
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + budget_seconds
    while any(len(found) < runs for found in seconds.values()):
        for name, call in calls.items():
            seconds[name] += _turn(call, most=max(TURN, -(-runs // TURNS)))
        if time.perf_counter() > end:
            break
    return seconds


def _turn(call: Callable[[], object], *, most: int) -> list[float]:
    settle()
    call()
    seconds: list[float] = []
    while len(seconds) < TURN or (len(seconds) < most and sum(seconds) < _TURN_SECONDS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def median_ms(seconds: list[float]) -> float:
    """Median in milliseconds."""
    return statistics.median(seconds) * 1e3
