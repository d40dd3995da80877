"""A report's plots as inline SVG that takes its ink from the page, so that it suits any theme."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lavit_deploy.profiles.counting.parts import PARTS, TITLES
from lavit_deploy.profiles.render.throughput_plot import MARKS, throughput
from lavit_deploy.profiles.report.schema import ModelReport, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK = "#010203"
"""Stands for the page's text colour while matplotlib draws; nothing else has this colour."""
_COLOURS = ("#4e79d9", "#e0702c", "#2f9e6e", "#c9487f", "#9a6fd0", "#b08a1e", "#2a9db0", "#b3574d",
            "#d18fbd", "#6d9e2f")  # fmt: skip
"""Legible on white and on near-black."""
_LINES = ("-", "--", ":")


@dataclass(frozen=True)
class Chart:
    """A plot.

    Attributes:
        title: what it shows.
        note: how to read it.
        svg: an `<svg>` element without references to anything outside it.
    """

    title: str
    note: str
    svg: str


def charts(report: Report) -> Iterator[Chart]:
    """Every plot that the report has the numbers for."""
    timed = [model for model in report.models if model.timings]
    if timed:
        yield _chart(
            "Throughput against multiply-adds",
            "Higher is faster. Models that lie on one vertical line do the same work at different "
            "speeds.",
            lambda: throughput(timed),
        )
    if any(len(model.timings) > 2 for model in timed):
        yield _chart(
            "Throughput against batch size",
            "Bands are 95 % confidence intervals of the median; a cross marks the last batch "
            "before memory ran out.",
            lambda: _curve(timed),
        )
    yield from _splits(report)
    if report.peaks and any(model.roofline for model in report.models):
        yield _chart(
            "Roofline",
            "A digit is a stage, h the head; larger ones are larger batches. Under the slope "
            "memory limits a stage, under the flat line matrix products do. A mark above the "
            "slope had its data in a cache; one above the flat line was faster than the matrix "
            "product that measured the peak.",
            lambda: _roofline(report),
        )
    if any(model.growth for model in report.models):
        yield _chart(
            "Growth with resolution",
            "Multiply-adds of one square image; the exponent is of the number of pixels.",
            lambda: _growth([model for model in report.models if model.growth]),
        )


def _splits(report: Report) -> Iterator[Chart]:
    yield _chart(
        "Multiply-adds by part",
        "One image.",
        lambda: _bars(
            [
                (model.label, {part: n / 1e9 for part, n in model.counts.by_part.items()})
                for model in report.models
            ],
            "multiply-adds of one image, G",
        ),
    )
    batches = sorted({split.batch for model in report.models for split in model.time_splits})
    for batch in batches:
        rows = [
            (model.label, _times(model, batch))
            for model in report.models
            if any(split.batch == batch for split in model.time_splits)
        ]
        yield _chart(
            f"Time by part, batch {batch}",
            "What belongs to no part is grey. The instrument costs time too: totals are larger "
            "than latencies.",
            lambda rows=rows: _bars(rows, "milliseconds of a call"),  # type: ignore[misc] # bound now
        )


def _times(model: ModelReport, batch: int) -> dict[str, float]:
    split = next(split for split in model.time_splits if split.batch == batch)
    times: dict[str, float] = {}
    for cell in split.cells:
        times[cell.part] = times.get(cell.part, 0.0) + cell.milliseconds
    return times | {"not attributed": max(0.0, split.unattributed_ms)}


def _chart(title: str, note: str, draw: Callable[[], Figure]) -> Chart:
    from matplotlib import rc_context

    name = re.sub(r"\W+", "-", title.lower())
    style = {
        "svg.fonttype": "none",  # text stays text: it can be selected, and takes the page's font
        "svg.hashsalt": name,  # the same report gives the same file
        "font.family": "sans-serif",
        "text.color": _INK, "axes.edgecolor": _INK, "axes.labelcolor": _INK,
        "xtick.color": _INK, "ytick.color": _INK, "grid.color": _INK, "grid.alpha": 0.15,
        "axes.grid": True, "axes.axisbelow": True, "axes.spines.top": False,
        "axes.spines.right": False, "legend.frameon": False, "legend.fontsize": 9,
    }  # fmt: skip
    text = io.StringIO()
    with rc_context(style):  # type: ignore[arg-type] # its keys are a Literal of 300 names
        draw().savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return Chart(title, note, _inline(text.getvalue(), name, title))


def _inline(svg: str, name: str, title: str) -> str:
    """An SVG file as an element: the page's ink, and names that no other plot has."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = svg.replace(_INK, "currentColor")
    # Sizes in points would not shrink with the page; the viewBox keeps the shape.
    head, _, rest = svg.partition(">")
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{title}">{rest}'


def _figure(width: float = 9.0, height: float = 4.6) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _plain(value: float, _position: float) -> str:
    """A number at an axis as 0.1, 1, 100: matplotlib's own powers of ten are small to read."""
    return f"{value:g}"


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def _curve(models: list[ModelReport]) -> Figure:
    figure, axes = _figure()
    for index, model in enumerate(models):
        batches = [timing.batch for timing in model.timings]
        speeds = [timing.images_per_second for timing in model.timings]
        axes.plot(
            batches, speeds, marker="o", markersize=4, label=model.label, color=_colour(index),
            linestyle=_LINES[index // len(_COLOURS) % len(_LINES)],
        )  # fmt: skip
        sure = [
            (one.batch, one.batch * 1e3 / one.median_high_ms, one.batch * 1e3 / one.median_low_ms)
            for one in model.timings
            if one.median_low_ms and one.median_high_ms
        ]
        if sure:
            timed, low, high = zip(*sure, strict=True)
            axes.fill_between(timed, low, high, color=_colour(index), alpha=0.18, lw=0)
        if model.limits:
            axes.scatter(batches[-1:], speeds[-1:], marker="x", color=_colour(index), s=90)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(_plain)
    axes.set(xlabel="images per call", ylabel="images per second")
    axes.set_ylim(bottom=0)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _bars(rows: list[tuple[str, dict[str, float]]], label: str) -> Figure:
    figure, axes = _figure(height=1.4 + 0.34 * max(len(rows), 3))
    parts = [part for part in (*PARTS, "other") if any(part in row for _, row in rows)]
    parts += ["not attributed"] if any("not attributed" in row for _, row in rows) else []
    labels = [name for name, _ in rows]
    left = np.zeros(len(rows))
    for part in parts:
        widths = np.array([row.get(part, 0.0) for _, row in rows])
        known = part in PARTS
        colour = _colour(PARTS.index(part)) if known else "#8a8f98"
        axes.barh(labels, widths, left=left, color=colour, label=TITLES.get(part, part))
        left += widths
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(label)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _roofline(report: Report) -> Figure:
    figure, axes = _figure()
    models = [model for model in report.models if model.roofline]
    points = [point for model in models for point in model.roofline]
    if report.peaks is None:
        raise TypeError("a roofline without peaks")
    reached = [point.intensity for point in points]
    ridges = [
        peak.multiply_adds_per_second / report.peaks.copy_bytes_per_second
        for peak in report.peaks.products
    ]
    span = np.geomspace(min(reached) / 3, 3 * max(reached + ridges), 200)
    slowest = min(point.multiply_adds_per_second for point in points)
    # A roof below every mark bounds none of them: the table has it.
    roofs = [one for one in report.peaks.products if one.multiply_adds_per_second > slowest]
    for index, peak in enumerate(roofs):
        roof = np.minimum(peak.multiply_adds_per_second, span * report.peaks.copy_bytes_per_second)
        axes.plot(
            span, roof / 1e9, color="#8a8f98", linestyle=_LINES[index % len(_LINES)],
            label=f"{peak.precision} peak, {peak.multiply_adds_per_second / 1e9:.0f} G/s",
        )  # fmt: skip
    for index, model in enumerate(models):
        axes.scatter(
            [],
            [],
            marker=MARKS[model.kind].marker,
            color=_colour(index),
            label=model.label,
        )
        for point in model.roofline:  # its stage is its marker: text beside points would overlap
            axes.scatter(
                point.intensity, point.multiply_adds_per_second / 1e9,
                marker=f"${point.stage.removeprefix('stage ')[0]}$", color=_colour(index),
                s=20 + 20 * math.log2(2 * point.batch),
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(_plain)
    axes.yaxis.set_major_formatter(_plain)
    axes.set(xlabel="multiply-adds per byte moved", ylabel="multiply-adds per second, G")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _growth(models: list[ModelReport]) -> Figure:
    figure, axes = _figure()
    for index, model in enumerate(models):
        if model.growth is None:
            continue
        axes.plot(
            model.growth.sizes,
            [total / 1e9 for total in model.growth.total],
            marker="o", markersize=4, color=_colour(index),
            label=f"{model.label}, exponent {model.growth.total_exponent:.2f}",
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(_plain)
    sizes = sorted({size for model in models if model.growth for size in model.growth.sizes})
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set(xlabel="side of the image, pixels", ylabel="multiply-adds, G")
    axes.legend()
    return figure
