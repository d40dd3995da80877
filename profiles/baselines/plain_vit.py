"""Models that change few things in a ViT: DeepViT, DynamicViT, EViT, PPT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lavit_deploy.profiles.baselines.family import BaselineFamily, Published, Variant
from lavit_deploy.profiles.baselines.vit import Reduction, ViTConfig, vit_counts
from lavit_deploy.profiles.counting.architecture import Attention
from lavit_deploy.profiles.counting.module_rules import module_rules
from lavit_deploy.profiles.counting.stage_counts import HEAD, StageCounts

if TYPE_CHECKING:
    from torch import nn


_DEEPVIT = "Zhou et al., DeepViT, arXiv:2103.11886; sizes of the authors' repository"
_DYNAMICVIT = (
    "Rao et al., DynamicViT, arXiv:2106.02034 (FLOPs of rho = 0.9); parameters: DeiT-S's 22.1 M "
    "and three predictors as in the authors' repository"
)
_EVIT = "Liang et al., EViT, arXiv:2202.07800, and the authors' repository youweiliang/evit"
_PPT = "Wu et al., PPT, repository xjwu1024/PPT: 2.944 G for --r_tokens 50 --pp_loc_list 3 6 9"
_PPT_NOTES = ("random weights give even attention, so that every image has its tokens merged",)


def _small(reduction: Reduction, *, keep: float = 1.0, removed: int = 0) -> ViTConfig:
    """DeiT-S with fewer tokens from layers 3, 6 and 9 on."""
    return ViTConfig(
        dim=384, heads=6, reduction=reduction, reduced_at=(3, 6, 9), keep=keep, removed=removed
    )


def _base(reduction: Reduction, *, keep: float = 1.0, removed: int = 0) -> ViTConfig:
    """DeiT-B, likewise."""
    return ViTConfig(
        dim=768, heads=12, reduction=reduction, reduced_at=(3, 6, 9), keep=keep, removed=removed
    )


def _counts(config: ViTConfig) -> StageCounts | None:
    """The work of PPT depends on the picture."""
    return None if config.reduction == "ppt" else vit_counts(config)


def _build(config: ViTConfig, attention: Attention) -> nn.Module:
    from lavit_deploy.profiles.baselines.modules.vit import DynamicViT, EViT, PlainViT, Ppt

    kinds = {"none": PlainViT, "dynamicvit": DynamicViT, "evit": EViT, "ppt": Ppt}
    return kinds[config.reduction](config, fused=attention == "sdpa")


PLAIN_VIT = BaselineFamily(
    name="plain ViT",
    implementation="reference module",
    build=_build,
    module_rules=module_rules(
        (r"patch_embed|class_token|positions", "patch_embed"),
        (r"reductions", "token_selection"),
        (r"blocks\.\d+\.(norm1|attn\.(qkv|proj))", "attention_projections"),
        (r"blocks\.\d+\.attn", "attention_scores_values"),
        (r"blocks\.\d+\.(norm2|mlp)", "mlp"),
        (r"norm|head", HEAD),
    ),
    variants=(
        Variant(
            "deepvit_s",
            ViTConfig(dim=396, depth=16, heads=12, mlp_ratio=3, stem=64, mixed_heads=5),
            Published(27.0, 6.2, _DEEPVIT),
        ),
        Variant("dynamicvit_s", _small("dynamicvit", keep=0.9), Published(22.8, 4.0, _DYNAMICVIT)),
        Variant("dynamicvit_b", _base("dynamicvit", keep=0.9)),
        Variant("evit_s", _small("evit", keep=0.9), Published(22.1, 4.0, _EVIT)),
        Variant("evit_b", _base("evit", keep=0.9), Published(86.6, 15.3, _EVIT)),
        Variant("ppt_s", _small("ppt", removed=50), Published(22.1, 2.944, _PPT), _PPT_NOTES),
        Variant("ppt_b", _base("ppt", removed=50), notes=_PPT_NOTES),
    ),
    counts=_counts,
    least_size=112,
    size_step=16,
)
