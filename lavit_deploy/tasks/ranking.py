"""What logits mean: the most likely classes and their probabilities."""

from __future__ import annotations

from heapq import nlargest

import numpy as np

from lavit_deploy.common.errors import InferenceError
from lavit_deploy.runtimes.base import Logits

RankedClasses = tuple[tuple[int, float], ...]
"""Class and probability, most likely first; a class is its position in the output, from 0."""


def rank(logits: Logits, count: int, temperature: float = 1.0) -> RankedClasses:
    """The most likely classes by softmax over all of them, equal ones in the model's order.

    Args:
        logits: float32 [K], finite.
        count: classes to name, 1..K.
        temperature: what the logits are divided by.
    """
    exponentials = np.exp((logits.astype(np.float64) - np.float64(logits.max())) / temperature)
    probabilities: list[float] = (exponentials / exponentials.sum()).tolist()
    # numpy's sort gives the interpreter's lock away and waits for decoders to get it back.
    best = nlargest(count, range(len(probabilities)), key=probabilities.__getitem__)
    return tuple([(index, probabilities[index]) for index in best])


def check_logits(logits: Logits, classes: int) -> None:
    """Refuse what no answer can be made of.

    Args:
        logits: of one picture.
        classes: how many there must be.

    Raises:
        InferenceError: they are not float32 [classes], or some are not finite.
    """
    if logits.shape != (classes,) or not np.isfinite(logits).all():
        raise InferenceError("the model gave no usable numbers for this picture")
