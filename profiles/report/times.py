"""What was timed: latencies by batch size, and where the time of a call went."""

from __future__ import annotations

from pydantic import Field

from lavit_deploy.profiles.report.record import Record


class Timing(Record):
    """One batch size of one model.

    Attributes:
        batch: images per call.
        calls: timed calls.
        turns: turns that they were taken in.
        warmup_calls: untimed calls before the first turn.
        settled: whether the warm-up ended stable.
        median_ms: latency of a call, the median over turns of their medians, milliseconds.
        median_low_ms: lower end of its 95 % confidence interval; None for too few turns.
        median_high_ms: upper end.
        p50_ms: 50th percentile over all calls; None for fewer than 2 calls.
        p90_ms: 90th percentile; None for fewer than 10 calls.
        p95_ms: 95th percentile; None for fewer than 20 calls.
        p99_ms: 99th percentile; None for fewer than 100 calls.
        images_per_second: batch divided by the median.
        peak_memory_bytes: most bytes of tensors alive at once, without weights; None if unknown.
    """

    batch: int = Field(ge=1)
    calls: int
    turns: int
    warmup_calls: int
    settled: bool
    median_ms: float
    median_low_ms: float | None
    median_high_ms: float | None
    p50_ms: float | None = None
    p90_ms: float | None = None
    p95_ms: float | None
    p99_ms: float | None
    images_per_second: float
    peak_memory_bytes: int | None


class BatchLimit(Record):
    """A batch that did not fit into memory.

    Attributes:
        batch: images per call that were asked for.
        halved_to: the batch that was timed in its place; None where not even one image fits.
        reason: what ran out.
    """

    batch: int
    halved_to: int | None
    reason: str


class Comparison(Record):
    """Two models at one batch size.

    Attributes:
        model: the first.
        reference: the second.
        batch: images per call.
        speedup: how many times faster the first is: the median over rounds of the reference's
            latency over the first's.
        low: lower end of its 95 % confidence interval; None for too few turns.
        high: upper end.
        winner: the faster model, None inside the noise.
    """

    model: str
    reference: str
    batch: int
    speedup: float
    low: float | None
    high: float | None
    winner: str | None


class TimeCell(Record):
    """Measured time of one part of one stage.

    Attributes:
        stage: as in `Cell`, by which the two are joined.
        part: likewise.
        milliseconds: per call of the whole batch.
    """

    stage: str
    part: str
    milliseconds: float


class TimeSplit(Record):
    """Where the time of a call went.

    Attributes:
        method: how it was measured.
        batch: images per call.
        calls: calls that were measured; every time is the median over them.
        cells: attributed time.
        total_ms: time of the whole call, measured with the same instrument switched on.
        unattributed_ms: what belongs to no part, or to no operator at all: `total_ms` less the sum
            of `cells`.
        unattributed: where most of it went, the largest first.
    """

    method: str
    batch: int
    calls: int
    cells: tuple[TimeCell, ...]
    total_ms: float
    unattributed_ms: float
    unattributed: tuple[str, ...] = ()

    @property
    def unattributed_share(self) -> float:
        """Share of the call that could not be attributed, 0 to 1."""
        return self.unattributed_ms / self.total_ms if self.total_ms else 0.0
