"""The baselines as `transformers` builds them: random weights, nothing downloaded."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import (
    PvtConfig,
    PvtForImageClassification,
    PvtV2Config,
    PvtV2ForImageClassification,
    SwinConfig,
    SwinForImageClassification,
)
from transformers.models.pvt.modeling_pvt import PvtAttention, PvtEfficientSelfAttention
from transformers.models.pvt_v2.modeling_pvt_v2 import PvtV2BlockLayer, PvtV2SelfAttention

from lavit_deploy.config import LaViTConfig
from profiles import closed_form
from profiles.baselines import Baseline

Attention = Literal["eager", "sdpa"]
"""`eager` writes the scores to memory; `sdpa` is PyTorch's fused attention."""

_SEED = 0


def build(baseline: Baseline, attention: Attention) -> nn.Module:
    """The baseline in evaluation mode, float32, with reproducible random weights.

    `forward(images [B, 3, H, W])` gives an object with `logits` [B, K].
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return _built(baseline, attention).eval()


def _built(baseline: Baseline, attention: Attention) -> nn.Module:
    config, fused = baseline.config, attention == "sdpa"
    if isinstance(config, closed_form.SwinConfig):
        return _swin(config, attention)
    if isinstance(config, closed_form.PvtV2Config):
        return _fused_pvt_v2(_pvt_v2(config)) if fused else _pvt_v2(config)
    return _fused_pvt(_pvt(config)) if fused else _pvt(config)


def _pvt(config: LaViTConfig) -> PvtForImageClassification:
    return PvtForImageClassification(
        PvtConfig(
            image_size=config.image_size[0],
            depths=config.depths,
            hidden_sizes=config.dims,
            num_attention_heads=config.heads,
            mlp_ratios=config.mlp_ratios,
            sequence_reduction_ratios=config.sr_ratios,
            patch_sizes=config.patch_sizes,
            strides=config.patch_sizes,
            num_labels=config.num_classes,
        )
    )


def _pvt_v2(config: closed_form.PvtV2Config) -> PvtV2ForImageClassification:
    return PvtV2ForImageClassification(
        PvtV2Config(  # type: ignore[call-arg] # num_labels: of every configuration, not listed
            image_size=config.image_size[0],
            depths=config.depths,
            hidden_sizes=config.dims,
            num_attention_heads=config.heads,
            mlp_ratios=config.mlp_ratios,
            sr_ratios=config.sr_ratios,
            patch_sizes=config.kernels,
            strides=config.strides,
            num_labels=config.num_classes,
        )
    )


def _swin(config: closed_form.SwinConfig, attention: Attention) -> nn.Module:
    return SwinForImageClassification(
        SwinConfig(  # type: ignore[call-arg] # num_labels, attn_implementation: likewise
            image_size=config.image_size[0],
            depths=config.depths,
            embed_dim=config.dim,
            num_heads=config.heads,
            window_size=config.window,
            mlp_ratio=config.mlp_ratio,
            patch_size=config.patch,
            num_labels=config.num_classes,
            attn_implementation=attention,
        )
    )


# transformers has fused attention for Swin, not for PVT and PVT v2. An eager baseline beside a
# fused one would be a comparison of implementations.


def _fused_pvt(model: PvtForImageClassification) -> nn.Module:
    """The same model with fused attention."""
    for module in list(model.modules()):
        if isinstance(module, PvtAttention):
            module.self = _FusedPvt.like(module.self, model.config)
    return model


def _fused_pvt_v2(model: PvtV2ForImageClassification) -> nn.Module:
    """The same model with fused attention."""
    for module in list(model.modules()):
        if isinstance(module, PvtV2BlockLayer):
            module.attention = _FusedPvtV2.like(module.attention, model.config)
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


class _FusedPvt(PvtEfficientSelfAttention):
    """PVT's attention, fused; same weights, same result."""

    @classmethod
    def like(cls, eager: PvtEfficientSelfAttention, config: PvtConfig) -> _FusedPvt:
        fused = cls(
            config,
            eager.hidden_size,
            eager.num_attention_heads,
            eager.sequences_reduction_ratio,
        )
        fused.load_state_dict(eager.state_dict())
        return fused

    def forward(
        self, hidden_states: Tensor, height: int, width: int, *_: object, **__: object
    ) -> tuple[Tensor]:
        query = self.transpose_for_scores(self.query(hidden_states))
        if self.sequences_reduction_ratio > 1:
            pooled = _pooled(hidden_states, self.sequence_reduction, height, width)
            hidden_states = self.layer_norm(pooled)
        key = self.transpose_for_scores(self.key(hidden_states))
        value = self.transpose_for_scores(self.value(hidden_states))
        return (_attend(query, key, value),)


class _FusedPvtV2(PvtV2SelfAttention):
    """PVT v2's attention (not its linear variant), fused; same weights, same result."""

    @classmethod
    def like(cls, eager: PvtV2SelfAttention, config: PvtV2Config) -> _FusedPvtV2:
        fused = cls(
            config,
            eager.hidden_size,
            eager.num_attention_heads,
            eager.spatial_reduction_ratio,
        )
        fused.load_state_dict(eager.state_dict())
        return fused

    def forward(
        self, hidden_states: Tensor, height: int, width: int, *_: object, **__: object
    ) -> tuple[Tensor]:
        query = self.transpose_for_scores(self.query(hidden_states))
        if self.spatial_reduction_ratio > 1:
            pooled = _pooled(hidden_states, self.spatial_reduction, height, width)
            hidden_states = self.layer_norm(pooled)
        key = self.transpose_for_scores(self.key(hidden_states))
        value = self.transpose_for_scores(self.value(hidden_states))
        return (self.proj(_attend(query, key, value)),)
