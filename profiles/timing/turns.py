"""Timing several models in one process: warm-up until stable, then turns in alternation.

A machine drifts: clocks, temperature, neighbours. Models timed one after another would be compared
across that drift, models timed in turns share it. Each round gives every model one turn, in an
order drawn anew. A turn begins when the worker threads of another runtime, which spin after their
last call, are idle, with one untimed call, which brings the model's weights back into the caches.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from lavit_deploy.common.alternation import settle
from lavit_deploy.profiles.timing.intervals import MIN_TURNS, Turns
from lavit_deploy.profiles.timing.runner import BatchTooLargeError, Runner

TURN_CALLS = 3
"""Timed calls in a turn, after the untimed one."""

METHOD = (
    "one process; every round gives each model one turn in random order; a turn, begun when no "
    f"thread works any more, is one untimed call and {TURN_CALLS} timed ones; latency is the "
    "median over turns of each turn's median, with the order statistics that cover it with 95 % "
    "confidence; a speed-up is the median over rounds of the ratio within a round; percentiles are "
    "over all timed calls"
)
"""How timings come about, as reports say it."""

_WINDOW = 4
_SETTLED = 0.05
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class TimingPlan:
    """How much to time.

    Attributes:
        batches: images per call, in this order.
        calls: timed calls of each model and batch, rounded up to whole turns.
        seconds: stop a batch size early after this time per model, though not before the six
            turns that an interval needs.
        warmup: fewest untimed calls before the first turn.
        warmup_seconds: stop waiting for a model to settle after this time.
        memory: on a CPU, bytes that the tensors of a call may take: a batch that would take more
            is not tried, since a machine that runs out of memory ends processes instead of
            refusing them.
    """

    batches: tuple[int, ...] = (1, 8)
    calls: int = 60
    seconds: float = 30.0
    warmup: int = 2 * _WINDOW
    warmup_seconds: float = 30.0
    memory: int | None = None


def batch_curve(largest: int) -> Iterator[int]:
    """1, 2, 4, ... and `largest` itself, which need not be a power of two."""
    batch = 1
    while batch < largest:
        yield batch
        batch *= 2
    yield largest


@dataclass(frozen=True)
class WarmUp:
    """How a model warmed up.

    Attributes:
        calls: untimed calls.
        settled: whether the medians of the last two windows of four calls came within 5 %.
    """

    calls: int
    settled: bool


@dataclass
class BatchTimings:
    """What was measured at one batch size; grows while measuring, so an interrupt loses little.

    Attributes:
        batch: images per call.
        warmups: label -> how it warmed up.
        peak_memory: label -> bytes, None where the runtime does not tell.
        refused: label -> why the batch did not fit into memory.
        turns: label -> timed calls of every finished turn, seconds.
    """

    batch: int
    warmups: dict[str, WarmUp] = field(default_factory=dict)
    peak_memory: dict[str, int | None] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    turns: dict[str, list[list[float]]] = field(default_factory=dict)

    def of(self, label: str) -> Turns:
        """Seconds [turns, TURN_CALLS]; no rows where nothing was finished."""
        return np.array(self.turns.get(label, [])).reshape(-1, TURN_CALLS)


Notify = Callable[[str, float], None]
"""Told what is being done and which share of this batch size is done, 0 to 1."""


def time_batch(
    runners: Sequence[Runner],
    plan: TimingPlan,
    result: BatchTimings,
    notify: Notify = lambda *_: None,
) -> None:
    """Time all runners in alternation at `result.batch`, adding to `result` as it goes.

    A model for which the batch is too large is left out, and `result.refused` says why.

    Raises:
        InferenceError: a model cannot run the batch for another reason.
    """
    runners = [runner for runner in runners if _ready(runner, plan, result, notify)]
    if not runners:
        return
    order = random.Random(_SEED)
    rounds = max(MIN_TURNS, -(-plan.calls // TURN_CALLS))
    budget = plan.seconds * len(runners)
    started = time.monotonic()
    for done in range(rounds):
        elapsed = time.monotonic() - started
        if done >= MIN_TURNS and elapsed > budget:
            break
        notify(f"batch {result.batch}: timing", max(done / rounds, min(elapsed / budget, 0.99)))
        for runner in order.sample(runners, len(runners)):
            settle()
            runner.call()
            turn = [runner.call() for _ in range(TURN_CALLS)]
            result.turns.setdefault(runner.label, []).append(turn)
    notify(f"batch {result.batch}: done", 1.0)


def _ready(runner: Runner, plan: TimingPlan, result: BatchTimings, notify: Notify) -> bool:
    """Warm a model up at the batch; False where that does not fit into memory."""
    label, batch = runner.label, result.batch
    notify(f"batch {batch}: warming up {label}", 0.0)
    try:
        _check_memory(runner, batch, plan.memory)
        runner.prepare(batch)
        result.warmups[label] = warm_up(runner, plan)
        result.peak_memory[label] = runner.peak_memory()
    except BatchTooLargeError as error:
        result.refused[label] = str(error)
        return False
    return True


def _check_memory(runner: Runner, batch: int, limit: int | None) -> None:
    """Refuse a batch whose tensors would take more than the limit, by what one image takes."""
    if limit is None or batch == 1:
        return
    runner.prepare(1)
    runner.call()
    one = runner.peak_memory()
    if one is not None and one * batch > limit:
        raise BatchTooLargeError(
            f"{runner.label}: a batch of {batch} would take about {one * batch / 2**30:.3g} GiB "
            f"beside the weights, the limit is {limit / 2**30:.3g} GiB"
        )


def warm_up(runner: Runner, plan: TimingPlan) -> WarmUp:
    """Call until stable: the medians of the last two windows of four calls differ by 5 % at most.

    At least `plan.warmup` calls; a model that has not settled after `plan.warmup_seconds` is
    timed all the same, and reported as unsettled.
    """
    calls: list[float] = []
    started = time.monotonic()
    while True:
        calls.append(runner.call())
        if len(calls) >= plan.warmup and _settled(calls):
            return WarmUp(len(calls), settled=True)
        if time.monotonic() - started > plan.warmup_seconds:
            return WarmUp(len(calls), settled=False)


def _settled(calls: list[float]) -> bool:
    if len(calls) < 2 * _WINDOW:
        return False
    last, before = np.median(calls[-_WINDOW:]), np.median(calls[-2 * _WINDOW : -_WINDOW])
    return bool(abs(last - before) <= _SETTLED * before)
