"""Accuracy against confidence, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lavit_deploy.common.atomic_files import atomic_path
from lavit_deploy.common.errors import MissingDependencyError
from lavit_deploy.manifest import Confidence, ReliabilityBin
from lavit_deploy.tasks.confidence import BINS, calibration_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_reliability(axes: Axes, bins: Sequence[ReliabilityBin], title: str) -> None:
    """Bars of the accuracy by confidence; the diagonal is a model that is as right as it says.

    Args:
        axes: matplotlib's, empty.
        bins: of `lavit_deploy.tasks.confidence.reliability_bins`.
        title: what comes before the calibration error.
    """
    middles = [(place + 0.5) / BINS for place in range(BINS)]
    axes.bar(middles, [one.accuracy for one in bins], width=0.9 / BINS)
    axes.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    axes.set_title(f"{title}expected calibration error {calibration_error(bins):.2%}")


def write_reliability(confidence: Confidence, path: Path) -> None:
    """Both diagrams, without and with the temperature, as one picture.

    Args:
        confidence: what was fitted.
        path: the picture; its ending says which kind.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MissingDependencyError(
            "matplotlib", extra="predict", purpose="draw reliability"
        ) from None
    figure = Figure(figsize=(10, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_reliability(left, confidence.bins_before, "as trained: ")
    draw_reliability(right, confidence.bins, f"temperature {confidence.temperature:.3g}: ")
    figure.suptitle(f"{confidence.pictures:,} pictures: {confidence.source}", fontsize="medium")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:])
