"""Fused attention for PVT and PVT v2, for which `transformers` has none.

An eager baseline beside a fused one would be a comparison of implementations.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from transformers.models.pvt.modeling_pvt import PvtEfficientSelfAttention
from transformers.models.pvt_v2.modeling_pvt_v2 import PvtV2SelfAttention


def with_fused_attention(model: nn.Module) -> nn.Module:
    """The same model, weights and all, whose attention layers of either PVT are fused."""
    for module in model.modules():
        if type(module) is PvtEfficientSelfAttention:
            module.__class__ = _FusedPvt
        elif type(module) is PvtV2SelfAttention:
            module.__class__ = _FusedPvtV2
    return model


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Fused attention, heads joined: [B, H, N, d], [B, H, M, d] twice -> [B, N, D]."""
    scale = 1.0 / math.sqrt(query.shape[-1])
    mixed = nn.functional.scaled_dot_product_attention(query, key, value, scale=scale)
    return mixed.transpose(1, 2).flatten(2)  # [B, H, N, d] -> [B, N, H, d] -> [B, N, D]


def _pooled(tokens: Tensor, convolution: nn.Module, height: int, width: int) -> Tensor:
    """Keys' and values' tokens through the reducing convolution: [B, N, D] -> [B, M, D]."""
    # [B, N, D] -> [B, D, N] -> [B, D, h, w]
    grid = tokens.transpose(1, 2).reshape(tokens.shape[0], -1, height, width)
    return convolution(grid).flatten(2).transpose(1, 2)  # [B, D, h/r, w/r] -> [B, M, D]


def _mixed(
    attention: PvtEfficientSelfAttention | PvtV2SelfAttention,
    tokens: Tensor,
    reduction: nn.Module | None,
    grid: tuple[int, int],
) -> Tensor:
    """Values mixed by fused attention, [B, N, D] -> [B, N, D], in the names that both PVTs share.

    Args:
        attention: its projections and norm.
        tokens: [B, N, D].
        reduction: the convolution that keys and values go through, None without one.
        grid: height and width of the tokens.
    """
    query = attention.transpose_for_scores(attention.query(tokens))
    if reduction is not None:
        tokens = attention.layer_norm(_pooled(tokens, reduction, *grid))
    key = attention.transpose_for_scores(attention.key(tokens))
    return _attend(query, key, attention.transpose_for_scores(attention.value(tokens)))


class _FusedPvt(PvtEfficientSelfAttention):
    """PVT's attention, fused; same weights, same result."""

    def forward(
        self, hidden_states: Tensor, height: int, width: int, *_: object, **__: object
    ) -> tuple[Tensor]:
        reduction = self.sequence_reduction if self.sequences_reduction_ratio > 1 else None
        return (_mixed(self, hidden_states, reduction, (height, width)),)


class _FusedPvtV2(PvtV2SelfAttention):
    """PVT v2's attention (not its linear variant), fused; same weights, same result."""

    def forward(
        self, hidden_states: Tensor, height: int, width: int, *_: object, **__: object
    ) -> tuple[Tensor]:
        reduction = self.spatial_reduction if self.spatial_reduction_ratio > 1 else None
        return (self.proj(_mixed(self, hidden_states, reduction, (height, width))),)
