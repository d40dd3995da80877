"""How right predictions are where labels are known: accuracy, by class, confusions, calibration."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lavit_deploy.common.errors import MissingDependencyError
from lavit_deploy.manifest import ReliabilityBin
from lavit_deploy.prediction.journal import Record
from lavit_deploy.tasks.confidence import calibration_error, reliability_bins
from lavit_deploy.tasks.reliability_plot import draw_reliability

_Z = 1.959964
"""Of a normal distribution, for 95 %."""


@dataclass(frozen=True)
class ClassResult:
    """One class.

    Attributes:
        label: its name.
        pictures: with this label.
        precision: share of the answers of this class that are right; None without one.
        recall: share of its pictures that were found; None without one.
    """

    label: str
    pictures: int
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class Evaluation:
    """What labelled pictures say about a model.

    Attributes:
        pictures: how many were classified and have a label that the model knows.
        accuracy: share whose most likely class is the label.
        interval: Wilson's 95 % interval of it.
        top_5: share whose label is among the five most likely; None where fewer were kept.
        calibration_error: expected calibration error, over bins of equal width.
        bins: of those, the number of pictures, mean confidence and accuracy of each.
        by_class: one for each class, in the model's order.
        confusion: pictures by label (rows) and answer (columns), in the model's order.
        unknown_labels: labels that the model has no class for, and their number; not counted above.
        failed: pictures with a label that could not be classified; not counted above.
    """

    pictures: int
    accuracy: float
    interval: tuple[float, float]
    top_5: float | None
    calibration_error: float
    bins: tuple[ReliabilityBin, ...]
    by_class: tuple[ClassResult, ...]
    confusion: tuple[tuple[int, ...], ...]
    unknown_labels: dict[str, int]
    failed: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


def evaluate(records: Iterable[Record], classes: Sequence[str]) -> Evaluation | None:
    """Compare predictions with labels; None where no picture has a label that the model knows.

    Args:
        records: of a run.
        classes: the model's, in the order of the logits.
    """
    places = {name: place for place, name in enumerate(classes)}
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    unknown: dict[str, int] = {}
    failed, among_five, kept = 0, 0, 5
    confidences: list[float] = []
    hits: list[bool] = []
    for record in records:
        label = record.get("label")
        if label is None:
            continue
        if label not in places:
            unknown[label] = unknown.get(label, 0) + 1
        elif record["status"] != "ok":
            failed += 1
        else:
            answers = record["predictions"]
            confusion[places[label], answers[0]["index"]] += 1
            among_five += any(item["label"] == label for item in answers[:5])
            kept = min(kept, len(answers))
            confidences.append(answers[0]["probability"])
            hits.append(answers[0]["label"] == label)
    if not hits:
        return None
    share = sum(hits) / len(hits)
    bins = reliability_bins(np.array(confidences), np.array(hits))
    return Evaluation(
        pictures=len(hits),
        accuracy=share,
        interval=wilson_interval(sum(hits), len(hits)),
        top_5=among_five / len(hits) if kept >= min(5, len(classes)) else None,
        calibration_error=calibration_error(bins),
        bins=bins,
        by_class=tuple(_by_class(confusion, classes)),
        confusion=tuple(tuple(int(cell) for cell in row) for row in confusion),
        unknown_labels=unknown,
        failed=failed,
    )


def wilson_interval(hits: int, total: int) -> tuple[float, float]:
    """Where a share lies with 95 % confidence, after Wilson (1927).

    It stays within 0 and 1, and is right for few pictures too, as the normal interval is not.
    """
    share, z2 = hits / total, _Z * _Z
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def _by_class(confusion: npt.NDArray[np.int64], classes: Sequence[str]) -> Iterable[ClassResult]:
    for place, name in enumerate(classes):
        right = int(confusion[place, place])
        pictures, answers = int(confusion[place].sum()), int(confusion[:, place].sum())
        yield ClassResult(
            label=name,
            pictures=pictures,
            precision=right / answers if answers else None,
            recall=right / pictures if pictures else None,
        )


def draw(evaluation: Evaluation, classes: Sequence[str], path: Path) -> None:
    """The confusion matrix and the reliability diagram as one picture.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MissingDependencyError(
            "matplotlib", extra="predict", purpose="draw confusions"
        ) from None
    figure = Figure(figsize=(12, 5.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    counts = np.array(evaluation.confusion, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = left.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(image, ax=left, label="share of the label's pictures")
    left.set_xlabel("answer")
    left.set_ylabel("label")
    left.set_title(f"{evaluation.accuracy:.2%} of {evaluation.pictures:,} pictures right")
    if len(classes) <= 40:  # more names than that cannot be read
        left.set_xticks(range(len(classes)), classes, rotation=90)
        left.set_yticks(range(len(classes)), classes)
    if len(classes) <= 15:
        for row, column in np.argwhere(counts > 0):
            colour = "white" if shares[row, column] > 0.5 else "black"
            text = f"{int(counts[row, column])}"
            left.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    draw_reliability(right, evaluation.bins, "")
    figure.savefig(path, dpi=120)
