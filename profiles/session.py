"""One run of the profiler: count every model, then time all of them in alternation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime

from lavit_deploy import __version__
from lavit_deploy.common.environment import Environment, command_line
from lavit_deploy.common.errors import InferenceError, ProfileError, UsageError
from lavit_deploy.profiles.report.machine import MachineState, Peaks
from lavit_deploy.profiles.report.roofline import roofline
from lavit_deploy.profiles.report.schema import ModelReport, Report
from lavit_deploy.profiles.report.times import BatchLimit, Comparison, Timing
from lavit_deploy.profiles.source_commit import source_commit
from lavit_deploy.profiles.subjects.profiled_model import ProfiledModel, RunSettings
from lavit_deploy.profiles.timing import intervals
from lavit_deploy.profiles.timing.machine_peaks import measure_peaks
from lavit_deploy.profiles.timing.machine_state import machine_state
from lavit_deploy.profiles.timing.runner import Runner
from lavit_deploy.profiles.timing.torch_runner import device_name, torch_threads
from lavit_deploy.profiles.timing.turns import METHOD, BatchTimings, Notify, TimingPlan, time_batch
from lavit_deploy.runtimes.specs import distributions

_SPLIT_CALLS = 9
"""Calls that a split is the median of."""


def _silent(_what: str, _share: float) -> None:
    """Tell nobody."""


@dataclass
class Session:
    """What to do, and what was done so far: `report` can be asked for at any moment.

    Attributes:
        models: what is profiled, with different labels.
        settings: how they are run.
        plan: how they are timed; None to count only.
        comparisons: pairs of labels to compare.
        sizes: image sizes at which to count as well; none to leave growth out.
        splitting: whether to measure the time of each part.
        curve: those of the plan's batches that only draw a curve: their time is not split, and
            artifacts that do not take them are left out.
        rooflines: whether to measure the peaks of the machine, and set the parts against them.
        measured: models counted so far.
        batches: batch sizes timed so far, the last one perhaps in part.
        peaks: of the machine, once measured.
        load: load average of the minute before.
        before: state of the machine before the run.
    """

    models: Sequence[ProfiledModel]
    settings: RunSettings
    plan: TimingPlan | None
    comparisons: Sequence[tuple[str, str]] = ()
    sizes: Sequence[int] = ()
    splitting: bool = False
    curve: frozenset[int] = frozenset()
    rooflines: bool = False
    measured: list[ModelReport] = field(default_factory=list)
    batches: list[BatchTimings] = field(default_factory=list)
    peaks: Peaks | None = None
    before: MachineState | None = None
    load: float = field(default_factory=lambda: os.getloadavg()[0])

    def count(self, *, strict: bool = False, notify: Notify = _silent) -> None:
        """Count parameters and multiply-adds of every model.

        Args:
            strict: do not accept a count that may be incomplete.
            notify: told what is being counted.

        Raises:
            ProfileError: with `strict`, an operator that may hold multiply-adds was not counted,
                or the traced count is not the closed form's.
        """
        for done, one in enumerate(self.models):
            notify(f"counting {one.label}", done / len(self.models))
            model = one.measure()
            if self.sizes:
                model = model.model_copy(update={"growth": one.growth(self.sizes)})
            self.measured.append(model)
        notify("counted", 1.0)
        if strict:
            for model in self.measured:
                _check_complete(model)

    def time(self, notify: Notify = _silent) -> None:
        """Time every model at every batch size of the plan.

        Raises:
            UsageError: an artifact does not take one of the batch sizes.
            InferenceError: a model cannot run a batch.
        """
        if self.plan is None:
            return
        with ExitStack() as stack:
            stack.enter_context(torch_threads(self.settings.threads))
            runners = [stack.enter_context(model.open()) for model in self.models]
            for runner in runners:
                _check_batches(runner, self._named())
            pending = [(batch, _taking(batch, runners)) for batch in self.plan.batches]
            while pending:
                batch, those = pending.pop(0)
                timings = BatchTimings(batch)
                those = [one for one in those if not self._timed(one.label, batch)]
                self.batches.append(timings)
                time_batch(those, self.plan, timings, notify)
                refused = [one for one in those if one.label in timings.refused]
                pending = _without_larger(pending, refused, batch)
                if refused and batch > 1:
                    pending.insert(0, (batch // 2, refused))
                elif refused:
                    raise InferenceError(timings.refused[refused[0].label])

    def _timed(self, label: str, batch: int) -> bool:
        return any(one.batch == batch and len(one.of(label)) for one in self.batches)

    def measure_peaks(self, notify: Notify = _silent) -> None:
        """Measure what the machine can do at most, if rooflines are wanted."""
        if self.rooflines:
            self.peaks = measure_peaks(self.settings.device, self.settings.threads, notify)

    def split(self, notify: Notify = _silent) -> None:
        """Measure where the time of every model goes, at every batch size of the plan.

        A model whose runtime does not tell is left out.
        """
        if self.plan is None or not self.splitting:
            return
        for index, model in enumerate(self.models):
            notify(f"splitting {model.label}", index / len(self.models))
            fitting = [batch for batch in self._named() if self._timed(model.label, batch)]
            splits = (model.split(batch, _SPLIT_CALLS) for batch in fitting)
            found = tuple(split for split in splits if split is not None)
            self.measured[index] = self.measured[index].model_copy(update={"time_splits": found})
        notify("split", 1.0)

    def _named(self) -> tuple[int, ...]:
        """Batch sizes that were asked for one by one, without those that only draw a curve."""
        if self.plan is None:
            return ()
        return tuple(batch for batch in self.plan.batches if batch not in self.curve)

    def report(self, *, complete: bool) -> Report:
        """Everything measured so far."""
        return Report(
            project_version=__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=tuple(command_line()),
            environment=Environment.here(distributions()),
            device=self.settings.device,
            gpu=device_name(self.settings.device),
            threads=self.settings.threads,
            load=round(self.load, 2),
            commit=source_commit(),
            before=self.before,
            after=machine_state(self.settings.device),
            peaks=self.peaks,
            method=METHOD if self.plan else None,
            complete=complete,
            models=tuple(self._completed(model) for model in self.measured),
            comparisons=tuple(
                _compare(batch, model, reference)
                for model, reference in self.comparisons
                for batch in self.batches
                if len(batch.of(model)) and len(batch.of(reference))
            ),
        )

    def _completed(self, model: ModelReport) -> ModelReport:
        """A counted model with its timings, and what follows from them."""
        return model.model_copy(
            update={
                "timings": self._timings(model.label),
                "limits": self._limits(model.label),
                "roofline": roofline(model, self.peaks) if self.peaks else (),
            }
        )

    def _timings(self, label: str) -> tuple[Timing, ...]:
        timed = (batch for batch in self.batches if len(batch.of(label)))
        return tuple(_timing(one, label) for one in sorted(timed, key=lambda one: one.batch))

    def _limits(self, label: str) -> tuple[BatchLimit, ...]:
        """Batches that did not fit, each with the largest smaller one that did."""
        fitting = [one.batch for one in self.batches if len(one.of(label))]
        return tuple(
            BatchLimit(
                batch=one.batch,
                halved_to=max((batch for batch in fitting if batch < one.batch), default=None),
                reason=one.refused[label],
            )
            for one in self.batches
            if label in one.refused
        )


def _without_larger(
    pending: list[tuple[int, list[Runner]]], refused: list[Runner], batch: int
) -> list[tuple[int, list[Runner]]]:
    """What remains to be timed when some models could not run `batch`: nothing larger for them."""
    kept = [
        (other, [one for one in those if other < batch or one not in refused])
        for other, those in pending
    ]
    return [(other, those) for other, those in kept if those]


def _check_complete(model: ModelReport) -> None:
    unknown = ", ".join(operator.operator for operator in model.counts.unknown)
    if unknown:
        raise ProfileError(
            f"{model.label}: {unknown} ran, has no handle, and may hold multiply-adds"
        )
    if model.counts.closed_form not in {None, model.counts.total}:
        raise ProfileError(
            f"{model.label}: the traced count {model.counts.total:,} is not the closed form's "
            f"{model.counts.closed_form:,}"
        )


def _taking(batch: int, runners: Sequence[Runner]) -> list[Runner]:
    return [runner for runner in runners if batch <= (runner.max_batch or batch)]


def _check_batches(runner: Runner, batches: Sequence[int]) -> None:
    too_large = [batch for batch in batches if batch > (runner.max_batch or batch)]
    if too_large:
        raise UsageError(
            f"{runner.label} takes at most {runner.max_batch} images at once, "
            f"given --batch {' '.join(map(str, too_large))}"
        )


def _timing(batch: BatchTimings, label: str) -> Timing:
    turns = batch.of(label)
    median = intervals.latency(turns)
    return Timing(
        batch=batch.batch,
        calls=turns.size,
        turns=len(turns),
        warmup_calls=batch.warmups[label].calls,
        settled=batch.warmups[label].settled,
        median_ms=1000 * median.value,
        median_low_ms=_milliseconds(median.low),
        median_high_ms=_milliseconds(median.high),
        p50_ms=_milliseconds(intervals.percentile(turns, 50)),
        p90_ms=_milliseconds(intervals.percentile(turns, 90)),
        p95_ms=_milliseconds(intervals.percentile(turns, 95)),
        p99_ms=_milliseconds(intervals.percentile(turns, 99)),
        images_per_second=batch.batch / median.value,
        peak_memory_bytes=batch.peak_memory[label],
    )


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


def _compare(batch: BatchTimings, model: str, reference: str) -> Comparison:
    """How many times faster `model` is: the reference's latency over its own."""
    speedup = intervals.ratio(batch.of(reference), batch.of(model))
    faster = model if speedup.value > 1 else reference
    return Comparison(
        model=model,
        reference=reference,
        batch=batch.batch,
        speedup=speedup.value,
        low=speedup.low,
        high=speedup.high,
        winner=faster if speedup.decides else None,
    )
