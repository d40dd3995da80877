"""What a run comes to, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypedDict

from serving_load.generator import Load

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


class Summary(TypedDict):
    """Numbers of one run.

    Attributes:
        sent: requests that were due in it.
        offered: of them a second.
        ok: requests answered with 200.
        throughput: of them a second.
        statuses: requests by status; 0 is a lost connection, -1 no answer.
        latency_ms: quantiles of the answered ones, counted from when they were due.
        refusal_ms: the same of those answered with something else.
        late_ms: quantiles of the generator's own delay.
        generator_share: processor time of the generator, of one core.
    """

    sent: int
    offered: float
    ok: int
    throughput: float
    statuses: dict[str, int]
    latency_ms: dict[str, float]
    refusal_ms: dict[str, float]
    late_ms: dict[str, float]
    generator_share: float


def summarise(load: Load, *, warm: float = 0.0) -> Summary:
    """Numbers of a run; `warm` is the uncounted time before it, seconds."""
    good = [sample.latency for sample in load.samples if sample.status == 200]
    refused = [sample.latency for sample in load.samples if sample.status >= 400]
    statuses = Counter(str(sample.status) for sample in load.samples)
    return Summary(
        sent=len(load.samples),
        offered=round(len(load.samples) / load.seconds, 2),
        ok=len(good),
        throughput=round(len(good) / load.seconds, 2),
        statuses=dict(sorted(statuses.items())),
        latency_ms=quantiles(good),
        refusal_ms=quantiles(refused),
        late_ms=quantiles([sample.late for sample in load.samples]),
        generator_share=round(load.generator_cpu_seconds / (load.seconds + warm), 4),
    )


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Quantiles in milliseconds, each the smallest value that the share does not exceed."""
    if not seconds:
        return {}
    ranked = sorted(seconds)
    found = {
        name: ranked[min(len(ranked) - 1, int(share * len(ranked)))]
        for name, share in QUANTILES.items()
    }
    return {name: round(value * 1e3, 3) for name, value in {**found, "max": ranked[-1]}.items()}
