"""The temperature and the threshold of a bundle, from held-out pictures with labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from lavit_deploy.common.errors import MissingDependencyError
from lavit_deploy.export.judging.reference import reference_logits
from lavit_deploy.export.quantization.calibration import LabelledPictures
from lavit_deploy.manifest import Confidence
from lavit_deploy.preprocess import Preprocess
from lavit_deploy.tasks.confidence import NoConfidenceError, fit_confidence
from lavit_deploy.tasks.reliability_plot import write_reliability

PLOT_NAME = "reliability.svg"
"""Of the diagram in a bundle."""


@dataclass(frozen=True)
class HeldOut:
    """What confidence is fitted on.

    Attributes:
        pictures: that the model was not trained on.
        max_refused: share of them that may be answered as unknown, 0 to 1.
    """

    pictures: LabelledPictures
    max_refused: float

    def confidence(self, model: nn.Module, preprocess: Preprocess) -> Confidence:
        """Fit it to a model.

        Args:
            model: float32, in evaluation mode.
            preprocess: mean and std.

        Raises:
            NoConfidenceError: the pictures have no labels, are too few, or decide nothing.
        """
        labels = self.pictures.labels
        if labels is None:
            raise NoConfidenceError(f"{self.pictures.source} have no labels")
        logits = reference_logits(model, self.pictures.images, preprocess)
        return fit_confidence(
            logits, labels, source=self.pictures.source, max_refused=self.max_refused
        )


def draw_into(folder: Path, confidence: Confidence) -> None:
    """Add the reliability diagram to a bundle; nothing without matplotlib."""
    try:
        write_reliability(confidence, folder / PLOT_NAME)
    except MissingDependencyError:
        return
