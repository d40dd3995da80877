"""Baselines as `transformers` builds them from configurations of this project."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn
from transformers import (
    CvtConfig,
    CvtForImageClassification,
    EfficientNetConfig,
    EfficientNetForImageClassification,
    PvtConfig,
    PvtForImageClassification,
    PvtV2Config,
    PvtV2ForImageClassification,
    RegNetConfig,
    RegNetForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.models.pvt.modeling_pvt import PvtAttention, PvtEfficientSelfAttention
from transformers.models.pvt_v2.modeling_pvt_v2 import PvtV2BlockLayer, PvtV2SelfAttention

from lavit_deploy.config import LaViTConfig
from profiles import closed_form
from profiles.baselines import Architecture, configs
from profiles.baselines.base import Attention


def build(config: Architecture, attention: Attention) -> nn.Module:
    """The model of a configuration; `forward` gives an object with `logits` [B, K].

    Args:
        config: one of the configurations of baselines that transformers has.
        attention: fused where the model has attention of that kind, or not.

    Raises:
        TypeError: transformers has no such model.
    """
    for kind, make in _MAKERS.items():
        if isinstance(config, kind):
            return make(config, attention)
    raise TypeError(f"transformers has no model for {type(config).__name__}")


def _pvt(config: LaViTConfig, attention: Attention) -> nn.Module:
    model = PvtForImageClassification(
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
    return _fused_pvt(model) if attention == "sdpa" else model


def _pvt_v2(config: closed_form.PvtV2Config, attention: Attention) -> nn.Module:
    model = PvtV2ForImageClassification(
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
    return _fused_pvt_v2(model) if attention == "sdpa" else model


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


def _vit(config: closed_form.ViTConfig, attention: Attention) -> nn.Module:
    return ViTForImageClassification(
        ViTConfig(  # type: ignore[call-arg] # num_labels, attn_implementation: likewise
            image_size=config.image_size[0],
            hidden_size=config.dim,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            intermediate_size=config.dim * config.mlp_ratio,
            patch_size=config.patch,
            num_labels=config.num_classes,
            attn_implementation=attention,
        )
    )


def _resnet(config: configs.ResNetConfig, _attention: Attention) -> nn.Module:
    return ResNetForImageClassification(
        ResNetConfig(  # type: ignore[call-arg] # num_labels: likewise
            depths=list(config.depths),
            hidden_sizes=list(config.dims),
            layer_type="bottleneck" if config.bottleneck else "basic",
            num_labels=config.num_classes,
        )
    )


def _regnet(config: configs.RegNetYConfig, _attention: Attention) -> nn.Module:
    return RegNetForImageClassification(
        RegNetConfig(  # type: ignore[call-arg] # num_labels: likewise
            depths=list(config.depths),
            hidden_sizes=list(config.dims),
            groups_width=config.group_width,
            layer_type="y",
            num_labels=config.num_classes,
        )
    )


def _efficientnet(config: configs.EfficientNetConfig, _attention: Attention) -> nn.Module:
    return EfficientNetForImageClassification(
        EfficientNetConfig(  # type: ignore[call-arg] # num_labels: likewise
            image_size=config.image_size[0],
            width_coefficient=config.width,
            depth_coefficient=config.depth,
            hidden_dim=config.head,
            depthwise_padding=list(config.padded),
            num_labels=config.num_classes,
        )
    )


def _cvt(config: configs.CvtConfig, _attention: Attention) -> nn.Module:
    return CvtForImageClassification(
        CvtConfig(  # type: ignore[call-arg] # num_labels: likewise
            depth=list(config.depths),
            embed_dim=list(config.dims),
            num_heads=list(config.heads),
            num_labels=config.num_classes,
        )
    )


_MAKERS: Mapping[type, Callable[[Any, Attention], nn.Module]] = MappingProxyType(
    {
        LaViTConfig: _pvt,
        closed_form.PvtV2Config: _pvt_v2,
        closed_form.SwinConfig: _swin,
        closed_form.ViTConfig: _vit,
        configs.ResNetConfig: _resnet,
        configs.RegNetYConfig: _regnet,
        configs.EfficientNetConfig: _efficientnet,
        configs.CvtConfig: _cvt,
    }
)


# transformers has fused attention for Swin and ViT, not for PVT and PVT v2. An eager baseline
# beside a fused one would be a comparison of implementations.


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
