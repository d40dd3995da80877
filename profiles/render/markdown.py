"""The report as a Markdown page, to be committed beside its JSON."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from lavit_deploy.profiles.report.caveats import limits, uncounted
from lavit_deploy.profiles.report.machine import describe
from lavit_deploy.profiles.report.schema import ModelReport, Report
from lavit_deploy.profiles.report.times import Comparison, TimeSplit, Timing


def page(report: Report) -> str:
    """Environment, counts, timings and comparisons of a report."""
    sections = [
        _environment(report),
        _counts(report),
        *_timings(report),
        "\n".join(f"- {line}" for line in (*limits(report), *uncounted(report))),
        _comparisons(report),
        *_splits(report),
        _roofline(report),
        _growth(report),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _environment(report: Report) -> str:
    here = report.environment
    libraries = ", ".join(f"{name} {version}" for name, version in here.libraries.items())
    machine = ", ".join(
        (
            report.gpu or here.cpu,
            f"{here.cores} cores",
            f"{report.threads} threads",
            f"{here.memory_gib} GiB",
            *here.cpu_features,
        )
    )
    lines = [
        f"Measured {report.created} with lavit-deploy {report.project_version}"
        + ("" if report.complete else " (**interrupted, incomplete**)"),
        f"{machine}; load average before the run {report.load:.2f}",
        f"Source: commit {report.commit or 'unknown'}; {describe(report.before, report.after)}",
        f"{here.system}, Python {here.python}, {libraries}",
        f"`{shlex.join(report.command)}`",
        report.convention,
    ]
    if report.method:
        lines.append(f"Timing: {report.method}.")
    return "\n".join(f"- {line}" for line in lines)


def _counts(report: Report) -> str:
    rows = [_count_row(model) for model in report.models]
    heads = ("model", "pixels", "parameters, M", "published", "multiply-adds, G", "published")
    return "## Parameters, and multiply-adds of one image\n\n" + _table(heads, rows)


def _count_row(model: ModelReport) -> Sequence[str]:
    published = model.published
    return (
        model.label,
        "x".join(map(str, model.image_size)),
        f"{model.parameters / 1e6:.2f}",
        f"{published.parameters_m:.1f}" if published else "-",
        f"{model.counts.total / 1e9:.3f}",
        f"{published.gflops:.1f}" if published else "-",
    )


def _timings(report: Report) -> Iterable[str]:
    heads = (
        "model", "runtime", "images/s", "median, ms", "95 % interval", "p50, ms", "p90, ms",
        "p95, ms", "p99, ms",
        "calls", "peak, MiB",
    )  # fmt: skip
    batches = sorted({timing.batch for model in report.models for timing in model.timings})
    for batch in batches:
        rows = [
            (model.label, f"{model.runtime}, {model.precision}, {model.attention}", *_cells(timing))
            for model in report.models
            for timing in model.timings
            if timing.batch == batch
        ]
        yield f"## Batch {batch}\n\n" + _table(heads, rows, text_columns=2)
    if any(not timing.settled for model in report.models for timing in model.timings):
        yield "\\* had not settled when the time for its warm-up was over."


def _cells(timing: Timing) -> Sequence[str]:
    memory = timing.peak_memory_bytes
    return (
        f"{timing.images_per_second:.1f}",
        f"{timing.median_ms:.1f}" + ("" if timing.settled else " \\*"),
        _interval(timing.median_low_ms, timing.median_high_ms, digits=1),
        "-" if timing.p50_ms is None else f"{timing.p50_ms:.1f}",
        "-" if timing.p90_ms is None else f"{timing.p90_ms:.1f}",
        "-" if timing.p95_ms is None else f"{timing.p95_ms:.1f}",
        "-" if timing.p99_ms is None else f"{timing.p99_ms:.1f}",
        str(timing.calls),
        "-" if memory is None else f"{memory / 2**20:.0f}",
    )


def _splits(report: Report) -> Iterable[str]:
    for batch in sorted({split.batch for model in report.models for split in model.time_splits}):
        found = [
            (model, split)
            for model in report.models
            for split in model.time_splits
            if split.batch == batch
        ]
        parts = list(dict.fromkeys(cell.part for _, split in found for cell in split.cells))
        rows = [
            (
                model.label,
                *(_sum_of(split, part) for part in parts),
                f"{split.unattributed_ms:.1f}",
                f"{split.total_ms:.1f}",
            )
            for model, split in found
        ]
        heads = ("model", *parts, "not attributed", "all")
        yield f"## Time by part, ms, batch {batch}\n\n" + _table(heads, rows)


def _sum_of(split: TimeSplit, part: str) -> str:
    times = [cell.milliseconds for cell in split.cells if cell.part == part]
    return f"{sum(times):.1f}" if times else "-"


def _roofline(report: Report) -> str:
    if report.peaks is None:
        return ""
    peaks = ", ".join(
        f"{peak.precision} {peak.multiply_adds_per_second / 1e9:.0f} G multiply-adds/s"
        for peak in report.peaks.products
    )
    rows = [
        (
            model.label,
            one.stage,
            str(one.batch),
            f"{one.milliseconds:.2f}",
            f"{one.intensity:.2f}",
            f"{one.multiply_adds_per_second / 1e9:.1f}",
            f"{one.bytes_per_second / 1e9:.1f}",
            f"{one.share:.0%}",
            one.limit,
        )
        for model in report.models
        for one in model.roofline
    ]
    heads = (
        "model", "stage", "batch", "ms", "multiply-adds per byte", "10^9 per second", "GB/s",
        "of the bound", "bound by",
    )  # fmt: skip
    copies = f"copies in memory {report.peaks.copy_bytes_per_second / 1e9:.1f} GB/s"
    return f"## Roofline\n\nPeaks: {peaks}; {copies}.\n\n" + _table(heads, rows, text_columns=2)


def _growth(report: Report) -> str:
    grown = [(model.label, model.growth) for model in report.models if model.growth]
    if not grown:
        return ""
    rows = [
        (label, *(f"{total / 1e9:.1f}" for total in one.total), f"{one.total_exponent:.2f}")
        for label, one in grown
    ]
    heads = ("model", *map(str, grown[0][1].sizes), "exponent")
    return "## Multiply-adds, G, by side of the image\n\n" + _table(heads, rows)


def _comparisons(report: Report) -> str:
    if not report.comparisons:
        return ""
    rows = [
        (
            f"{one.model} against {one.reference}",
            verdict(one),
            str(one.batch),
            f"{one.speedup:.3f}",
            _interval(one.low, one.high, digits=3),
        )
        for one in report.comparisons
    ]
    heads = ("comparison", "result", "batch", "speed-up", "95 % interval")
    return "## Comparisons\n\n" + _table(heads, rows, text_columns=2)


def verdict(comparison: Comparison) -> str:
    """Who won, or that the difference lies within the noise."""
    return f"{comparison.winner} is faster" if comparison.winner else "no winner inside the noise"


def _interval(low: float | None, high: float | None, *, digits: int) -> str:
    return "-" if low is None or high is None else f"{low:.{digits}f} - {high:.{digits}f}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1) -> str:
    """A table whose first columns are text and whose others are numbers."""
    rule = ["---" if index < text_columns else "---:" for index in range(len(heads))]
    lines = [heads, rule, *(_escaped(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _escaped(row: Sequence[str]) -> Sequence[str]:
    return [cell.replace("|", "\\|") for cell in row]
