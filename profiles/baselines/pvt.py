"""PVT (Wang et al., arXiv:2102.12122), as `transformers` builds it.

Its sizes are those of a LaViT that has no less-attention: one configuration and one formula.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lavit_deploy.model.config import LaViTConfig
from lavit_deploy.profiles.baselines.family import BaselineFamily, Published, Variant
from lavit_deploy.profiles.counting.architecture import Attention
from lavit_deploy.profiles.counting.lavit import lavit_counts
from lavit_deploy.profiles.counting.module_rules import module_rules
from lavit_deploy.profiles.counting.stage_counts import HEAD

if TYPE_CHECKING:
    from torch import nn


_SOURCE = "Wang et al., Pyramid Vision Transformer, arXiv:2102.12122, ImageNet results"
_BLOCK = r"pvt\.encoder\.block\.(?P<stage>\d)\.\d+\."


def _config(*depths: int) -> LaViTConfig:
    return LaViTConfig(
        depths=depths,
        dims=(64, 128, 320, 512),
        heads=(1, 2, 5, 8),
        mlp_ratios=(8, 8, 4, 4),
        sr_ratios=(8, 4, 2, 1),
        la_start=(0, 0, 0, 0),
        attention_residual=False,
        class_token=True,
    )


def _build(config: LaViTConfig, attention: Attention) -> nn.Module:
    from transformers import PvtConfig, PvtForImageClassification

    from lavit_deploy.profiles.baselines.modules.fused_pvt import with_fused_attention

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
    return with_fused_attention(model) if attention == "sdpa" else model


PVT = BaselineFamily(
    name="PVT",
    implementation="transformers",
    build=_build,
    module_rules=module_rules(
        (r"pvt\.encoder\.patch_embeddings\.(?P<stage>\d)", "patch_embed"),
        (
            _BLOCK + r"(layer_norm_1|attention\.output|"
            r"attention\.self\.(query|key|value|sequence_reduction|layer_norm))",
            "attention_projections",
        ),
        (_BLOCK + r"attention", "attention_scores_values"),
        (_BLOCK + r"(layer_norm_2|mlp)", "mlp"),
        (r"pvt\.encoder\.layer_norm|classifier", HEAD),
    ),
    variants=(
        Variant("pvt_tiny", _config(2, 2, 2, 2), Published(13.2, 1.9, _SOURCE)),
        Variant("pvt_small", _config(3, 4, 6, 3), Published(24.5, 3.8, _SOURCE)),
        Variant("pvt_medium", _config(3, 4, 18, 3), Published(44.2, 6.7, _SOURCE)),
        Variant("pvt_large", _config(3, 8, 27, 3), Published(61.4, 9.8, _SOURCE)),
    ),
    counts=lavit_counts,
)
