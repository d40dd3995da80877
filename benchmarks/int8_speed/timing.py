"""Timing in turn, keeping the rounds in which the machine did least besides."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil

from lavit_deploy.common.alternation import WARM_UP, settle

_BLOCK_SECONDS = 0.5
"""A block of rounds lasts at least this long: the kernel counts time in hundredths of a second."""


@dataclass(frozen=True)
class Timed:
    """What was measured.

    Attributes:
        ms: median milliseconds of a call, by name.
        others: share of the machine that other processes took in the rounds that count, 0 to 1.
    """

    ms: dict[str, float]
    others: float


@dataclass(frozen=True)
class _Block:
    others: float
    seconds: dict[str, list[float]]


def timed_in_turn(calls: Mapping[str, Callable[[], object]], *, seconds: float) -> Timed:
    """Time calls in turn, A B C A B C ..., and take medians over the quieter half of the blocks.

    Each turn begins when the threads of the one before are idle, with a call that is not counted.

    Args:
        calls: what to time, by name.
        seconds: after this long no new block of rounds begins.
    """
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    end = time.perf_counter() + seconds
    blocks = [_block(calls)]
    while time.perf_counter() < end:
        blocks.append(_block(calls))
    blocks.sort(key=lambda block: block.others)
    quiet = blocks[: (len(blocks) + 1) // 2]
    ms = {
        name: 1e3 * statistics.median([value for block in quiet for value in block.seconds[name]])
        for name in calls
    }
    return Timed(ms, statistics.fmean(block.others for block in quiet))


def _block(calls: Mapping[str, Callable[[], object]]) -> _Block:
    found: dict[str, list[float]] = {name: [] for name in calls}
    busy, start = _busy_elsewhere(), time.perf_counter()
    while (wall := time.perf_counter() - start) < _BLOCK_SECONDS:
        for name, call in calls.items():
            settle()
            call()
            began = time.perf_counter()
            call()
            found[name].append(time.perf_counter() - began)
    share = (_busy_elsewhere() - busy) / (wall * (psutil.cpu_count() or 1))
    return _Block(max(share, 0.0), found)


def _busy_elsewhere() -> float:
    """Seconds of processor time that were not idle and not this process's, since start."""
    machine, own = psutil.cpu_times(), psutil.Process().cpu_times()
    idle = machine.idle + getattr(machine, "iowait", 0.0)
    guest = getattr(machine, "guest", 0.0) + getattr(machine, "guest_nice", 0.0)
    return sum(machine) - guest - idle - own.user - own.system
