"""One run of the profiler: count every model, then time all of them in alternation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime

from lavit_deploy import __version__
from lavit_deploy.environment import Environment, command_line
from lavit_deploy.errors import ProfileError, UsageError
from profiles import statistics
from profiles.report import Comparison, ModelReport, Report, Timing
from profiles.runners import device_name, torch_threads
from profiles.subjects import Settings, Subject
from profiles.timing import METHOD, BatchTimings, Notify, Runner, TimingPlan, time_batch


def _silent(_what: str, _share: float) -> None:
    """Tell nobody."""


@dataclass
class Session:
    """What to do, and what was done so far: `report` can be asked for at any moment.

    Attributes:
        subjects: the models, with different labels.
        settings: how they are run.
        plan: how they are timed; None to count only.
        comparisons: pairs of labels to compare.
        measured: models counted so far.
        batches: batch sizes timed so far, the last one perhaps in part.
        load: load average of the minute before.
    """

    subjects: Sequence[Subject]
    settings: Settings
    plan: TimingPlan | None
    comparisons: Sequence[tuple[str, str]] = ()
    measured: list[ModelReport] = field(default_factory=list)
    batches: list[BatchTimings] = field(default_factory=list)
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
        for done, subject in enumerate(self.subjects):
            notify(f"counting {subject.label}", done / len(self.subjects))
            self.measured.append(subject.measure())
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
            runners = [stack.enter_context(subject.open()) for subject in self.subjects]
            for runner in runners:
                _check_batches(runner, self.plan)
            for batch in self.plan.batches:
                self.batches.append(BatchTimings(batch))
                time_batch(runners, self.plan, self.batches[-1], notify)

    def report(self, *, complete: bool) -> Report:
        """Everything measured so far."""
        return Report(
            project_version=__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=tuple(command_line()),
            environment=Environment.here(),
            device=self.settings.device,
            gpu=device_name(self.settings.device),
            threads=self.settings.threads,
            load=round(self.load, 2),
            method=METHOD if self.plan else None,
            complete=complete,
            models=tuple(
                model.model_copy(update={"timings": self._timings(model.label)})
                for model in self.measured
            ),
            comparisons=tuple(
                _compare(batch, model, reference)
                for model, reference in self.comparisons
                for batch in self.batches
                if len(batch.of(model)) and len(batch.of(reference))
            ),
        )

    def _timings(self, label: str) -> tuple[Timing, ...]:
        return tuple(_timing(batch, label) for batch in self.batches if len(batch.of(label)))


def _check_complete(model: ModelReport) -> None:
    unknown = ", ".join(operator.operator for operator in model.counts.unknown)
    if unknown:
        raise ProfileError(
            f"{model.label}: {unknown} ran, has no handle, and may hold multiply-adds"
        )
    if model.counts.total != model.counts.closed_form:
        raise ProfileError(
            f"{model.label}: the traced count {model.counts.total:,} is not the closed form's "
            f"{model.counts.closed_form:,}"
        )


def _check_batches(runner: Runner, plan: TimingPlan) -> None:
    too_large = [batch for batch in plan.batches if batch > (runner.max_batch or batch)]
    if too_large:
        raise UsageError(
            f"{runner.label} takes at most {runner.max_batch} images at once, "
            f"given --batch {' '.join(map(str, too_large))}"
        )


def _timing(batch: BatchTimings, label: str) -> Timing:
    turns = batch.of(label)
    median = statistics.latency(turns)
    return Timing(
        batch=batch.batch,
        calls=turns.size,
        turns=len(turns),
        warmup_calls=batch.warmups[label].calls,
        settled=batch.warmups[label].settled,
        median_ms=1000 * median.value,
        median_low_ms=_milliseconds(median.low),
        median_high_ms=_milliseconds(median.high),
        p95_ms=_milliseconds(statistics.percentile(turns, 95)),
        p99_ms=_milliseconds(statistics.percentile(turns, 99)),
        images_per_second=batch.batch / median.value,
        peak_memory_bytes=batch.peak_memory[label],
    )


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


def _compare(batch: BatchTimings, model: str, reference: str) -> Comparison:
    """How many times faster `model` is: the reference's latency over its own."""
    speedup = statistics.ratio(batch.of(reference), batch.of(model))
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
