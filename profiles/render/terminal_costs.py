"""Tables of costs by operator and module, of time by part, and of growth, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from lavit_deploy.profiles.report.costs import Growth
from lavit_deploy.profiles.report.schema import ModelReport
from lavit_deploy.profiles.report.times import TimeSplit

_DEEPEST = 3
"""Modules that are named by more words than this are left to the JSON file."""


def cost_tables(model: ModelReport, *, details: bool) -> Iterator[Table]:
    """Everything about one model that goes beyond its totals.

    Args:
        model: what was measured.
        details: also costs by operator and by module.
    """
    if details and model.operators:
        yield _operators(model)
        yield _modules(model)
    for split in model.time_splits:
        yield _split(model, split)
    if model.growth:
        yield _growth(model.label, model.growth)


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first, no_wrap=True)
    for column in others:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _operators(model: ModelReport) -> Table:
    table = _table(
        f"{escape(model.label)}: costs of one image by operator",
        "operator", "calls", "multiply-adds, M", "activations, M", "elements, M", "moved, MB",
    )  # fmt: skip
    for one in model.operators:
        table.add_row(
            one.operator,
            str(one.calls),
            _millions(one.multiply_adds),
            _millions(one.activations),
            _millions(one.elements),
            _millions(one.bytes_moved),
        )
    return table


def _modules(model: ModelReport) -> Table:
    table = _table(
        f"{escape(model.label)}: costs of one image by module, what is inside it included",
        "module", "parameters, M", "multiply-adds, M", "activations, M", "moved, MB",
    )  # fmt: skip
    for one in model.modules:
        if one.module.count(".") >= _DEEPEST:
            continue
        table.add_row(
            one.module or "(all)",
            _millions(one.parameters),
            _millions(one.multiply_adds),
            _millions(one.activations),
            _millions(one.bytes_moved),
        )
    return table


def _split(model: ModelReport, split: TimeSplit) -> Table:
    table = _table(
        f"{escape(model.label)}: where {split.total_ms:.1f} ms go at batch {split.batch} "
        f"({split.method}, median of {split.calls})",
        "stage, part", "ms", "share", "multiply-adds, M", "moved, MB", "10^9 per second",
    )  # fmt: skip
    counted = {stage: dict(parts) for stage, parts in model.counts.by_stage.items()}
    moved = {(cell.stage, cell.part): cell.bytes_moved for cell in model.cells}
    for cell in split.cells:
        work = split.batch * counted.get(cell.stage, {}).get(cell.part, 0)
        size = split.batch * moved.get((cell.stage, cell.part), 0)
        table.add_row(
            f"{cell.stage}, {cell.part}",
            f"{cell.milliseconds:.2f}",
            f"{cell.milliseconds / split.total_ms:.1%}",
            _millions(work),
            _millions(size) if size else "-",
            f"{work / 1e6 / cell.milliseconds:.1f}" if cell.milliseconds else "-",
        )
    table.add_row(
        "(not attributed)", f"{split.unattributed_ms:.2f}", f"{split.unattributed_share:.1%}",
        "-", "-", "-",
    )  # fmt: skip
    if split.unattributed:
        table.caption = "not attributed, the largest: " + escape(", ".join(split.unattributed))
    return table


def _growth(label: str, growth: Growth) -> Table:
    table = _table(
        f"{escape(label)}: multiply-adds, M, by side of the image in pixels",
        "part", *map(str, growth.sizes), "grows with\npixels to the",
    )  # fmt: skip
    for part in growth.parts:
        table.add_row(part.part, *map(_millions, part.multiply_adds), f"{part.exponent:.2f}")
    table.add_row("all", *map(_millions, growth.total), f"{growth.total_exponent:.2f}")
    return table


def _millions(number: float) -> str:
    """Tenths as long as they tell something: the widest tables have nine columns of numbers."""
    return f"{number / 1e6:,.{1 if number < 1e10 else 0}f}"
