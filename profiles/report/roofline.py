"""Each stage against the machine's peaks (S. Williams et al., Roofline, CACM 52(4), 2009)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from lavit_deploy.profiles.report.costs import Cell
from lavit_deploy.profiles.report.machine import Peaks, RooflinePoint
from lavit_deploy.profiles.report.schema import ModelReport
from lavit_deploy.profiles.report.times import TimeSplit

_WEIGHT_BYTES = 4
_WIDTHS = {"fp32": 1.0, "bf16": 0.5, "fp16": 0.5}
"""Bytes of an element over those of float32, in which `Cell` counts."""


def roofline(model: ModelReport, peaks: Peaks) -> tuple[RooflinePoint, ...]:
    """A point for every stage of every split of time.

    Bytes are those that operators read and write, each for itself; weights are read once a call,
    all else once an image. Nothing for a model without traced costs, or in a precision whose peak
    was not measured.
    """
    peak, width = peaks.of(model.precision), _WIDTHS.get(model.precision)
    if peak is None or width is None or not model.cells:
        return ()
    return tuple(
        point
        for split in model.time_splits
        for point in _points(
            split, model.cells, width, peak.multiply_adds_per_second, peaks.copy_bytes_per_second
        )
    )


def _points(
    split: TimeSplit, cells: tuple[Cell, ...], width: float, products: float, copies: float
) -> Iterator[RooflinePoint]:
    work: Counter[str] = Counter()
    moved: Counter[str] = Counter()
    for cell in cells:
        work[cell.stage] += split.batch * cell.multiply_adds
        moved[cell.stage] += moved_bytes(cell, split.batch)
    seconds: dict[str, float] = {}
    for timed in split.cells:
        seconds[timed.stage] = seconds.get(timed.stage, 0.0) + timed.milliseconds / 1000
    for stage, elapsed in seconds.items():
        if not (work[stage] and moved[stage] and elapsed):
            continue
        size = width * moved[stage]
        intensity = work[stage] / size
        yield RooflinePoint(
            stage=stage,
            batch=split.batch,
            milliseconds=1000 * elapsed,
            intensity=intensity,
            multiply_adds_per_second=work[stage] / elapsed,
            bytes_per_second=size / elapsed,
            bound=min(products, intensity * copies),
            limit="matrix product" if products <= intensity * copies else "memory",
        )


def moved_bytes(cell: Cell, batch: int) -> int:
    """Bytes that one call moves, in float32."""
    weights = min(_WEIGHT_BYTES * cell.parameters, cell.bytes_moved)
    return weights + batch * (cell.bytes_moved - weights)
