"""The report on a terminal."""

from __future__ import annotations

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

from lavit_deploy.profiles.counting.parts import OTHER, PARTS, TITLES
from lavit_deploy.profiles.render.markdown import verdict
from lavit_deploy.profiles.render.terminal_costs import cost_tables
from lavit_deploy.profiles.report.caveats import limits, uncounted
from lavit_deploy.profiles.report.diff import Difference
from lavit_deploy.profiles.report.machine import Peaks, describe
from lavit_deploy.profiles.report.schema import ModelReport, Report
from lavit_deploy.profiles.report.times import Timing

_NARROWEST = 130
"""Width for output that is no terminal: at 80 columns most cells would be broken into lines."""


def show(console: Console, report: Report, *, stages: bool = False, details: bool = False) -> None:
    """Print every table of a report.

    Args:
        console: where to.
        report: what was measured.
        stages: also split multiply-adds by stage.
        details: also show costs by operator and by module.
    """
    for block in _blocks(report, stages=stages):
        console.print(block)
    for model in report.models:
        for table in cost_tables(model, details=details):
            console.print(table)
    for line in _remarks(report):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def show_difference(console: Console, found: Difference) -> None:
    """Print how two reports differ."""
    table = _table(
        "New against old", "model", "what", "verdict", "old", "new", "new / old", "interval",
        text_columns=3,
    )  # fmt: skip
    for one in found.changes:
        interval = "-" if one.low is None or one.high is None else f"{one.low:.3f} - {one.high:.3f}"
        ratio = "-" if one.ratio is None else f"{one.ratio:.3f}"
        table.add_row(escape(one.label), one.what, one.verdict, one.old, one.new, ratio, interval)
    console.print(table)
    for line in found.machines:
        console.print(f"Latencies are not judged. Different {line}.", highlight=False, markup=False)
    said = "became slower, or is missing" if found.regressed else "nothing became slower"
    console.print(f"Beyond {found.tolerance:.0%} and the noise: {said}.", highlight=False)


def console() -> Console:
    """A console on standard output, wide enough for the tables where that is no terminal."""
    made = Console()
    return made if made.is_terminal else Console(width=max(made.width, _NARROWEST))


def _blocks(report: Report, *, stages: bool) -> list[RenderableType]:
    blocks: list[RenderableType] = []
    if report.models:
        blocks += [_counts(report), _parts(report)]
        blocks += [_stages(model) for model in report.models if stages]
    if any(model.timings for model in report.models):
        blocks.append(_timings(report))
    if report.comparisons:
        blocks.append(_comparisons(report))
    if report.peaks:
        blocks.append(_rooflines(report, report.peaks))
    return blocks


def _table(title: str, *columns: str, text_columns: int = 1) -> Table:
    """A table whose first columns are text and whose others are numbers."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        text = index < text_columns
        table.add_column(column, justify="left" if text else "right", no_wrap=not text)
    return table


def _counts(report: Report) -> Table:
    table = _table(
        "Parameters, and multiply-adds of one image",
        "model", "pixels", "parameters\nM", "multiply-adds\nG", "closed form", "published\nM",
        "published\nG", text_columns=2,
    )  # fmt: skip
    for model in report.models:
        counts, published = model.counts, model.published
        agrees = "equal" if counts.total == counts.closed_form else _number(counts.closed_form)
        table.add_row(
            escape(model.label),
            "x".join(map(str, model.image_size)),
            f"{model.parameters / 1e6:.2f}",
            f"{counts.total / 1e9:.3f}",
            agrees if counts.method == "traced" else "used",
            f"{published.parameters_m:.1f}" if published else "-",
            f"{published.gflops:.1f}" if published else "-",
        )
    return table


def _number(count: int | None) -> str:
    return "none" if count is None else f"{count:,}"


def _parts(report: Report) -> Table:
    parts = list(dict.fromkeys(part for model in report.models for part in model.counts.by_part))
    parts.sort(key=[*PARTS, OTHER].index)
    titles = map(_title, parts)
    table = _table("Multiply-adds by part, M and share", "model", *titles)
    for model in report.models:
        table.add_row(escape(model.label), *(_share(model.counts.by_part, part) for part in parts))
    return table


def _stages(model: ModelReport) -> Table:
    counts = model.counts
    parts = list(counts.by_part)
    titles = map(_title, parts)
    table = _table(f"{escape(model.label)}: multiply-adds by stage, M", "stage", *titles, "all")
    for stage, by_part in counts.by_stage.items():
        cells = (f"{by_part[part] / 1e6:.1f}" if part in by_part else "-" for part in parts)
        table.add_row(stage, *cells, f"{sum(by_part.values()) / 1e6:.1f}")
    return table


def _title(part: str) -> str:
    return TITLES.get(part, part).replace(" ", "\n", 1)


def _share(by_part: dict[str, int], part: str) -> str:
    if part not in by_part:
        return "-"
    share = by_part[part] / sum(by_part.values())
    return f"{by_part[part] / 1e6:.0f}\n{share:.1%}"


def _timings(report: Report) -> Table:
    where = report.gpu or f"{report.environment.cpu}, {report.threads} threads"
    table = _table(
        f"Latency and throughput: {where}",
        "model", "runtime", "batch", "images/s", "median\nms", "95 % interval\nms",
        "p50\nms", "p90\nms", "p95\nms",
        "p99\nms", "calls", "peak\nMiB", text_columns=2,
    )  # fmt: skip
    for batch in sorted({timing.batch for model in report.models for timing in model.timings}):
        for model in report.models:
            for timing in model.timings:
                if timing.batch == batch:
                    table.add_row(escape(model.label), _runtime(model), *_timing_cells(timing))
        table.add_section()
    return table


def _runtime(model: ModelReport) -> str:
    attention = "" if model.attention == "graph" else f", {model.attention}"
    return f"{model.runtime}, {model.precision}{attention}"


def _timing_cells(timing: Timing) -> tuple[str, ...]:
    interval = "-"
    if timing.median_low_ms is not None and timing.median_high_ms is not None:
        interval = f"{timing.median_low_ms:.1f} - {timing.median_high_ms:.1f}"
    memory = timing.peak_memory_bytes
    return (
        str(timing.batch),
        f"{timing.images_per_second:.1f}",
        f"{timing.median_ms:.2f}" + ("" if timing.settled else " *"),
        interval,
        _milliseconds(timing.p50_ms),
        _milliseconds(timing.p90_ms),
        _milliseconds(timing.p95_ms),
        _milliseconds(timing.p99_ms),
        str(timing.calls),
        "-" if memory is None else f"{memory / 2**20:.0f}",
    )


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _comparisons(report: Report) -> Table:
    table = _table(
        "Comparisons", "comparison", "result", "batch", "speed-up", "95 % interval", text_columns=2
    )
    for one in report.comparisons:
        interval = "-"
        if one.low is not None and one.high is not None:
            interval = f"{one.low:.3f} - {one.high:.3f}"
        table.add_row(
            escape(f"{one.model} against {one.reference}"),
            escape(verdict(one)),
            str(one.batch),
            f"{one.speedup:.3f}",
            interval,
        )
    return table


def _rooflines(report: Report, peaks: Peaks) -> Table:
    measured = ", ".join(
        f"{peak.precision} {peak.multiply_adds_per_second / 1e9:.0f} G/s" for peak in peaks.products
    )
    table = _table(
        f"Roofline: products {measured}, copies {peaks.copy_bytes_per_second / 1e9:.1f} GB/s",
        "model", "stage", "bound by", "batch", "ms", "multiply-adds\nper byte", "10^9 per\nsecond",
        "GB/s", "of bound", text_columns=3,
    )  # fmt: skip
    for model in report.models:
        for one in model.roofline:
            table.add_row(
                escape(model.label),
                one.stage,
                one.limit,
                str(one.batch),
                f"{one.milliseconds:.2f}",
                f"{one.intensity:.2f}",
                f"{one.multiply_adds_per_second / 1e9:.1f}",
                f"{one.bytes_per_second / 1e9:.1f}",
                f"{one.share:.0%}",
            )
        table.add_section()
    return table


def _remarks(report: Report) -> list[str]:
    lines = [report.convention]
    lines += [f"{model.label}: {note}." for model in report.models for note in model.notes]
    lines += limits(report)
    lines += uncounted(report)
    if any(not timing.settled for model in report.models for timing in model.timings):
        lines.append("* had not settled when the time for its warm-up was over.")
    if report.method:
        lines.append(f"Timing: {report.method}.")
        lines.append(f"Machine: {describe(report.before, report.after)}.")
        lines.append(
            f"Load average before the run: {report.load:.2f} on {report.environment.cores} cores."
        )
    return lines
