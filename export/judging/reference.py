"""What an artifact is compared with, and running it for that; its task judges."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

import numpy as np
import torch
from torch import nn

from lavit_deploy.preprocess import Pixels, Preprocess, normalise
from lavit_deploy.runtimes.base import Logits, Runtime


def reference_logits(model: nn.Module, images: Pixels, preprocess: Preprocess) -> Logits:
    """Logits [B, K] of the float32 PyTorch model, normalised as in training.

    Args:
        model: float32, in evaluation mode.
        images: uint8 [B, H, W, C].
        preprocess: mean and std.
    """
    with torch.inference_mode():
        parts = [
            model(torch.from_numpy(normalise(images[start : start + 16], preprocess)))
            for start in range(0, len(images), 16)
        ]
    return torch.cat(parts).numpy()


def run_artifact(runtime: Runtime, images: Pixels, sizes: tuple[int, ...]) -> Logits:
    """Logits [B, K] of an artifact, its batches cycling through `sizes`.

    Different sizes are used on purpose: a graph that is wrong for one of them must not pass.
    """
    return np.concatenate([runtime.infer(batch) for batch in _batches(images, sizes)])


def _batches(images: Pixels, sizes: tuple[int, ...]) -> Iterator[Pixels]:
    start = 0
    for size in cycle(sizes):
        if start >= len(images):
            return
        yield images[start : start + size]
        start += size
