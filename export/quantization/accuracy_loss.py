"""How much a quantized model loses on held-out pictures, in points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lavit_deploy.export.quantization.calibration import Labels
from lavit_deploy.runtimes.base import Logits


@dataclass(frozen=True)
class Loss:
    """Float32 against int8 on the same pictures.

    Attributes:
        float_accuracy: share of right classes of float32, 0 to 1; None without labels.
        accuracy: the same of int8.
        agreement: share of pictures with the same most likely class, 0 to 1.
    """

    float_accuracy: float | None
    accuracy: float | None
    agreement: float

    @property
    def points(self) -> float:
        """Points of accuracy lost; without labels, points of agreement lost."""
        if self.float_accuracy is None or self.accuracy is None:
            return 100.0 * (1.0 - self.agreement)
        return 100.0 * (self.float_accuracy - self.accuracy)


def loss(found: Logits, reference: Logits, labels: Labels | None) -> Loss:
    """What int8 loses.

    Args:
        found: logits of the quantized model [N, K].
        reference: logits of float32 PyTorch [N, K].
        labels: class numbers [N], None where they are not known.
    """
    mine, theirs = found.argmax(axis=1), reference.argmax(axis=1)
    agreement = float(np.mean(mine == theirs))
    if labels is None:
        return Loss(None, None, agreement)
    return Loss(float(np.mean(theirs == labels)), float(np.mean(mine == labels)), agreement)


def relative_error(found: Logits, reference: Logits) -> float:
    """||found - reference|| / ||reference|| of logits [N, K]."""
    difference = found.astype(np.float64) - reference
    scale = max(float(np.linalg.norm(reference)), np.finfo(float).tiny)
    return float(np.linalg.norm(difference)) / scale
