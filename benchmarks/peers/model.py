"""What every peer does with a picture, so that only the servers differ.

The bundle's artifact in the runtime that the service uses, opened as the service opens it, and the
project's own decoding.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.bundle.open import open_artifact
from lavit_deploy.preprocess import Pixels, prepare

MAX_BATCH = 8
MAX_WAIT_SECONDS = 0.005
"""Largest batch and longest wait for it: `lavit-serve`'s own defaults."""

Answer = dict[str, list[dict[str, str | int | float]]]


class Model:
    """An artifact of a bundle.

    Args:
        threads: of the runtime; default: the cores.
    """

    def __init__(self, threads: int | None = None) -> None:
        bundle = Bundle.open(Path(os.environ["LAVIT_BUNDLE"]))
        artifact = bundle.artifact(os.environ["LAVIT_ARTIFACT"])
        self._preprocess = bundle.manifest.preprocess
        self._classes = bundle.manifest.classes
        self._runtime = open_artifact(bundle, artifact, threads=threads, spin=False)
        black = np.zeros((MAX_BATCH, *self._preprocess.crop, 3), dtype=np.uint8)
        for size in (1, MAX_BATCH):
            self._runtime.infer(black[:size])

    def decode(self, data: bytes) -> Pixels:
        """A picture as the model takes it, uint8 [H, W, 3]."""
        return prepare(data, self._preprocess)

    def infer(self, pictures: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """Logits [B, K] of at most `MAX_BATCH` pictures [H, W, 3]."""
        return self._runtime.infer(np.stack(pictures))  # B x [H, W, 3] -> [B, H, W, 3]

    def answer(self, logits: npt.NDArray[np.float32]) -> Answer:
        """The five best classes of one picture's logits [K]."""
        exponentials = np.exp(logits.astype(np.float64) - np.float64(logits.max()))
        probabilities = exponentials / exponentials.sum()
        best = np.argsort(-probabilities, kind="stable")[:5]
        return {
            "predictions": [
                {
                    "label": self._classes[index],
                    "index": int(index),
                    "probability": float(probabilities[index]),
                }
                for index in best
            ]
        }
