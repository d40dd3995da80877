"""Throughput against multiply-adds as a picture."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lavit_deploy.common.atomic_files import atomic_path
from lavit_deploy.common.errors import MissingDependencyError, UsageError
from lavit_deploy.profiles.report.schema import ModelReport, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")


class Mark(NamedTuple):
    """How one kind of model is drawn."""

    name: str
    marker: str
    colour: str


MARKS = {
    "preset": Mark("LaViT", "o", "#4e79d9"),
    "checkpoint": Mark("LaViT, checkpoint", "D", "#4e79d9"),
    "artifact": Mark("LaViT, exported", "*", "#2f9e6e"),
    "baseline": Mark("baseline", "s", "#e0702c"),
}
_PLACES = (
    ("left", "center", 7, 0), ("right", "center", -7, 0), ("center", "bottom", 0, 6),
    ("center", "top", 0, -6), ("left", "bottom", 5, 5), ("left", "top", 5, -5),
    ("right", "bottom", -5, 5), ("right", "top", -5, -5), ("left", "bottom", 5, 12),
    ("left", "top", 5, -12),
)  # fmt: skip
"""Where a label may stand beside its point, best first: alignments, and a shift in points."""


def check(path: Path) -> None:
    """Find out whether `draw` could write `path`, before the measurements that it shows.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        UsageError: another kind of file than PNG, SVG or PDF.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"--plot {path}: the file must end in {', '.join(SUFFIXES)}")
    check_installed()


def check_installed() -> None:
    """Refuse to draw without matplotlib.

    Raises:
        MissingDependencyError: it is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingDependencyError("matplotlib", extra="profile", purpose="draw plots")


def draw(report: Report, path: Path) -> None:
    """Draw the smallest and the largest batch, with a point for each model.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        UsageError: another kind of file than PNG, SVG or PDF.
    """
    check(path)
    figure = throughput([model for model in report.models if model.timings])
    figure.suptitle(report.gpu or f"{report.environment.cpu}, {report.threads} threads")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def throughput(models: Sequence[ModelReport]) -> Figure:
    """Images per second over multiply-adds, a panel for the smallest and the largest batch."""
    from matplotlib.figure import Figure

    batches = sorted({timing.batch for model in models for timing in model.timings})
    shown = list(dict.fromkeys((*batches[:1], *batches[-1:])))
    figure = Figure(figsize=(4.8 * max(1, len(shown)), 4.4), layout="constrained")
    panels = figure.subplots(1, max(1, len(shown)), squeeze=False)[0]
    for axes, batch in zip(panels, shown, strict=False):
        for point in _points(models, batch).values():
            axes.scatter(point.x, point.y, marker=point.mark.marker, color=point.mark.colour)
        axes.set(title=f"batch {batch}", xlabel="multiply-adds of one image, G")
        axes.margins(x=0.2, y=0.1)
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, alpha=0.3)
    panels[0].set_ylabel("images per second (from the median latency)")
    for kind in dict.fromkeys(model.kind for model in models):
        name, marker, colour = MARKS[kind]
        panels[0].scatter([], [], marker=marker, color=colour, label=name)
    if models:
        figure.legend(loc="outside lower center", ncols=len(MARKS))
    figure.draw_without_rendering()  # lays out: only then it is known what a label would cover
    for axes, batch in zip(panels, shown, strict=False):
        _label(axes, _points(models, batch), 4.0 * figure.dpi / 72)
    return figure


class _Point(NamedTuple):
    x: float
    y: float
    mark: Mark


def _points(models: Sequence[ModelReport], batch: int) -> dict[str, _Point]:
    return {
        model.label: _Point(model.counts.total / 1e9, timing.images_per_second, MARKS[model.kind])
        for model in models
        for timing in model.timings
        if timing.batch == batch
    }


def _label(axes: Axes, points: dict[str, _Point], size: float) -> None:
    """Write each label where it covers no point and no other label, if there is such a place.

    Args:
        axes: laid out.
        points: by label.
        size: of a point from its middle to its edge, pixels.
    """
    from matplotlib.transforms import Bbox

    taken = [
        Bbox.from_bounds(x - size, y - size, 2 * size, 2 * size)
        for x, y in axes.transData.transform([(point.x, point.y) for point in points.values()])
    ]
    for label, point in points.items():
        for place in _PLACES:
            horizontal, vertical, right, up = place
            note = axes.annotate(
                label, (point.x, point.y), textcoords="offset points", xytext=(right, up),
                ha=horizontal, va=vertical, fontsize=8,
            )  # fmt: skip
            box = note.get_window_extent()
            inside = axes.bbox.x0 < box.x0 and box.x1 < axes.bbox.x1
            if inside and not any(box.overlaps(other) for other in taken):
                break
            if place != _PLACES[-1]:
                note.remove()
        taken.append(box)
