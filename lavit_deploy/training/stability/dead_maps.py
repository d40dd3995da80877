"""Attention maps that say nothing: the same for every picture and every query."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lavit_deploy.model.lavit import LayerScores
from lavit_deploy.training.stability.failure import DEAD_VARIATION


@torch.inference_mode()
def dead_layers(scores: Iterable[LayerScores]) -> tuple[str, ...]:
    """Names, "stage 3, layer 2" with both 1-based, of less-attention layers with dead maps.

    An untrained model's maps vary little, but a hundred times more than these.
    """
    return tuple(
        f"stage {item.stage + 1}, layer {item.layer + 1}"
        for item in scores
        if item.less_attention and variation(item.scores) < DEAD_VARIATION
    )


def variation(scores: Tensor) -> float:
    """Mean total variation distance of a query's map in a picture from the mean of all maps.

    Args:
        scores: [B, H, N, M] before the softmax.

    Returns:
        0 where all pictures and queries of a head have one map, at most 1.
    """
    maps = scores.float().softmax(dim=-1)
    mean = maps.mean(dim=(0, 2), keepdim=True)  # [1, H, 1, M]
    return float((maps - mean).abs().sum(dim=-1).mean() / 2)
