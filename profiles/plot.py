"""Throughput against multiply-adds as a picture."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from lavit_deploy.errors import MissingDependencyError, UsageError
from lavit_deploy.files import atomic_path
from profiles.report import Report

SUFFIXES = (".png", ".svg", ".pdf")
_MARKERS = {"preset": "o", "checkpoint": "D", "artifact": "*", "baseline": "s"}


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
    """Draw one panel for each batch size, with a point for each model.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        UsageError: another kind of file than PNG, SVG or PDF.
    """
    check(path)
    from matplotlib.figure import Figure

    timed = [model for model in report.models if model.timings]
    batches = sorted({timing.batch for model in timed for timing in model.timings})
    figure = Figure(figsize=(6.5 * max(1, len(batches)), 5.5), layout="constrained")
    panels = figure.subplots(1, max(1, len(batches)), squeeze=False)[0]
    for axes, batch in zip(panels, batches, strict=False):
        for model in timed:
            for timing in model.timings:
                if timing.batch == batch:
                    point = (model.counts.total / 1e9, timing.images_per_second)
                    axes.scatter(*point, marker=_MARKERS[model.kind], color="C0")
                    # Neighbours are mostly one of ours and one baseline: labels above and below.
                    offset = (6, -11) if model.kind == "baseline" else (6, 5)
                    axes.annotate(
                        model.label, point, textcoords="offset points", xytext=offset, fontsize=8
                    )
        axes.set_title(f"batch {batch}")
        axes.set_xlabel("multiply-adds of one image, G")
        axes.margins(x=0.15)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("images per second (from the median latency)")
    figure.suptitle(report.gpu or f"{report.environment.cpu}, {report.threads} threads")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
