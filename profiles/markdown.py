"""The report as a Markdown page, to be committed beside its JSON."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from profiles.report import Comparison, ModelReport, Report, Timing


def page(report: Report) -> str:
    """Environment, counts, timings and comparisons of a report."""
    sections = [_environment(report), _counts(report), *_timings(report), _comparisons(report)]
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
        "model", "runtime", "images/s", "median, ms", "95 % interval", "p95, ms", "p99, ms",
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
        "-" if timing.p95_ms is None else f"{timing.p95_ms:.1f}",
        "-" if timing.p99_ms is None else f"{timing.p99_ms:.1f}",
        str(timing.calls),
        "-" if memory is None else f"{memory / 2**20:.0f}",
    )


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
