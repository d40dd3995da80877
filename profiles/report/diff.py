"""Two reports against each other: what became slower, what changed, what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from lavit_deploy.profiles.report.schema import ModelReport, Report
from lavit_deploy.profiles.report.times import Timing

Verdict = Literal["slower", "faster", "no clear change", "missing", "added", "changed"]
_FAILING: frozenset[Verdict] = frozenset({"slower", "missing"})


@dataclass(frozen=True, kw_only=True)
class Change:
    """One number of two reports.

    Attributes:
        label: the model.
        what: which number.
        old: as reports print it; "-" where it is missing.
        new: likewise.
        ratio: new over old latency, with its interval; None for anything else.
        low: least ratio that both intervals allow; None where one of them is missing.
        high: greatest.
        verdict: what became of it.
    """

    label: str
    what: str
    old: str
    new: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: Verdict


@dataclass(frozen=True)
class Difference:
    """All that differs, and all latencies.

    Attributes:
        changes: models in the order of the old report.
        machines: how the machines differ; with any difference no latency is judged.
        tolerance: share by which a latency may grow.
    """

    changes: tuple[Change, ...]
    machines: tuple[str, ...]
    tolerance: float

    @property
    def regressed(self) -> bool:
        """Whether something became slower, or is missing."""
        return any(change.verdict in _FAILING for change in self.changes)


def difference(old: Report, new: Report, *, tolerance: float) -> Difference:
    """Compare two reports.

    A latency is slower where the whole interval of the ratio lies above 1 + tolerance. That
    interval is of the extremes of both latencies' own intervals: the reports share no rounds
    within which drift would cancel. Between different machines or threads no latency is judged.

    Args:
        old: the reference.
        new: what is judged.
        tolerance: share by which a latency may grow.
    """
    machines = tuple(_machines(old, new))
    later = {_key(model): model for model in new.models}
    earlier = {_key(model) for model in old.models}
    changes: list[Change] = []
    for model in old.models:
        found = later.get(_key(model))
        if found is None:
            changes.append(_gone(model, "model", "measured"))
            continue
        changes += _counts(model, found)
        changes += _timings(model, found, tolerance, judged=not machines)
    for model in new.models:
        if _key(model) not in earlier:
            changes.append(
                Change(label=model.label, what="model", old="-", new="measured", verdict="added")
            )
    return Difference(tuple(changes), machines, tolerance)


def _key(model: ModelReport) -> tuple[str, str, str, str, tuple[int, int]]:
    return model.label, model.runtime, model.precision, model.attention, model.image_size


def _gone(model: ModelReport, what: str, old: str) -> Change:
    return Change(label=model.label, what=what, old=old, new="-", verdict="missing")


def _machines(old: Report, new: Report) -> Iterator[str]:
    for what, before, after in (
        ("device", old.device, new.device),
        ("GPU", old.gpu, new.gpu),
        ("CPU", old.environment.cpu, new.environment.cpu),
        ("threads", old.threads, new.threads),
    ):
        if before != after:
            yield f"{what}: {before}, then {after}"


def _counts(old: ModelReport, new: ModelReport) -> Iterator[Change]:
    for what, before, after in (
        ("parameters", old.parameters, new.parameters),
        ("multiply-adds", old.counts.total, new.counts.total),
    ):
        if before != after:
            yield Change(
                label=old.label, what=what, old=f"{before:,}", new=f"{after:,}", verdict="changed"
            )


def _timings(
    old: ModelReport, new: ModelReport, tolerance: float, *, judged: bool
) -> Iterator[Change]:
    later = {timing.batch: timing for timing in new.timings}
    for timing in old.timings:
        found = later.get(timing.batch)
        if found is None:
            yield _gone(old, f"batch {timing.batch}", f"{timing.median_ms:.2f} ms")
        else:
            yield _latency(old.label, timing, found, tolerance, judged=judged)


def _latency(label: str, old: Timing, new: Timing, tolerance: float, *, judged: bool) -> Change:
    low, high = _ratio_interval(old, new)
    verdict: Verdict = "no clear change"
    if not judged:
        verdict = "changed"
    elif low is not None and low > 1 + tolerance:
        verdict = "slower"
    elif high is not None and high < 1 - tolerance:
        verdict = "faster"
    return Change(
        label=label,
        what=f"batch {old.batch}",
        old=f"{old.median_ms:.2f} ms",
        new=f"{new.median_ms:.2f} ms",
        ratio=new.median_ms / old.median_ms,
        low=low,
        high=high,
        verdict=verdict,
    )


def _ratio_interval(old: Timing, new: Timing) -> tuple[float | None, float | None]:
    ends = (old.median_low_ms, old.median_high_ms, new.median_low_ms, new.median_high_ms)
    if any(end is None for end in ends):
        return None, None
    old_low, old_high, new_low, new_high = (end for end in ends if end is not None)
    return new_low / old_high, new_high / old_low
