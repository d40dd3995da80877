"""Building baselines: random weights, nothing downloaded."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import torch
from torch import nn

from lavit_deploy.profiles.baselines import Baseline
from lavit_deploy.profiles.baselines.base import Attention
from lavit_deploy.profiles.baselines.configs import EfficientViTConfig, LitConfig
from lavit_deploy.profiles.baselines.efficientvit import EfficientViT
from lavit_deploy.profiles.baselines.from_transformers import build as build_with_transformers
from lavit_deploy.profiles.baselines.lit import Lit
from lavit_deploy.profiles.baselines.vit import DynamicViT, EViT, PlainViT, Ppt
from lavit_deploy.profiles.counting.closed_form import ViTConfig

_SEED = 0
_PLAIN: MappingProxyType[str, Callable[..., nn.Module]] = MappingProxyType(
    {"none": PlainViT, "dynamicvit": DynamicViT, "evit": EViT, "ppt": Ppt}
)


def build(baseline: Baseline, attention: Attention) -> nn.Module:
    """The baseline in evaluation mode, float32, with reproducible random weights.

    `forward(images [B, 3, H, W])` gives logits [B, K], or an object that has them as `logits`.
    Under `torch.device("meta")` it has shapes and no weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return _built(baseline, attention).eval()


def _built(baseline: Baseline, attention: Attention) -> nn.Module:
    config, fused = baseline.config, attention == "sdpa"
    if isinstance(config, LitConfig):
        return Lit(config, fused=fused)
    if isinstance(config, EfficientViTConfig):
        return EfficientViT(config)
    if isinstance(config, ViTConfig) and baseline.family == "plain":
        return _PLAIN[config.reduction](config, fused=fused)
    return build_with_transformers(config, attention)
