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
from transformers.models.pvt.modeling_pvt import PvtEfficientSelfAttention
from transformers.models.pvt_v2.modeling_pvt_v2 import PvtV2SelfAttention

from lavit_deploy.model.config import LaViTConfig
from lavit_deploy.profiles.baselines import Architecture, configs
from lavit_deploy.profiles.baselines.base import Attention
from lavit_deploy.profiles.counting import closed_form


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
    return _fused(model, PvtEfficientSelfAttention, _FusedPvt) if attention == "sdpa" else model


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
    return _fused(model, PvtV2SelfAttention, _FusedPvtV2) if attention == "sdpa" else model


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


def _fused(model: nn.Module, eager: type[nn.Module], fused: type[nn.Module]) -> nn.Module:
    """The same model, weights and all, with fused attention: `fused` changes methods of `eager`."""
    for module in model.modules():
        if type(module) is eager:
            module.__class__ = fused
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
