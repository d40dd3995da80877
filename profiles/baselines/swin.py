"""Swin Transformer (Liu et al., arXiv:2103.14030), as `transformers` builds it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lavit_deploy.model.config import STAGES
from lavit_deploy.profiles.baselines.family import BaselineFamily, Published, Variant
from lavit_deploy.profiles.counting.architecture import Attention
from lavit_deploy.profiles.counting.module_rules import module_rules
from lavit_deploy.profiles.counting.stage_counts import HEAD, STAGE_NAMES, StageCounts, classifier

if TYPE_CHECKING:
    from torch import nn


_SOURCE = "Liu et al., Swin Transformer, arXiv:2103.14030, ImageNet results"
_BLOCK = r"swin\.encoder\.layers\.(?P<stage>\d)\.blocks\.\d+\."


@dataclass(frozen=True, kw_only=True)
class SwinConfig:
    """Swin Transformer (Z. Liu et al., arXiv:2103.14030, section 3.3).

    Attributes:
        image_size: input height and width, pixels.
        depths: layers of each stage.
        dim: channels of the first stage; each later stage doubles them.
        heads: attention heads of each stage.
        window: side of an attention window, tokens.
        mlp_ratio: hidden width of the MLP as a multiple of the channels.
        patch: side of a patch, pixels.
        num_classes: outputs of the classifier.
    """

    image_size: tuple[int, int] = (224, 224)
    depths: tuple[int, ...]
    dim: int = 96
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    mlp_ratio: int = 4
    patch: int = 4
    num_classes: int = 1000


def swin_counts(config: SwinConfig) -> StageCounts:
    """Swin: attention within windows; a grid that windows do not divide is padded, and counted so.

    Padding enters attention and its projections, not the MLP.
    """
    counts = {}
    height, width = (side // config.patch for side in config.image_size)
    dim = config.dim
    for stage, name in enumerate(STAGE_NAMES[:STAGES]):
        if stage == 0:
            entry = height * width * 3 * dim * config.patch**2
        else:  # patch merging: four neighbours of dim / 2 channels become one token of dim
            height, width = math.ceil(height / 2), math.ceil(width / 2)
            entry = height * width * (2 * dim) * dim
        window, depth = config.window, config.depths[stage]
        padded = math.ceil(height / window) * math.ceil(width / window) * window**2
        counts[name] = Counter(
            patch_embed=entry,
            attention_projections=depth * 4 * padded * dim * dim,
            attention_scores_values=depth * 2 * padded * window**2 * dim,
            mlp=depth * 2 * height * width * dim * dim * config.mlp_ratio,
        )
        dim *= 2
    return {**counts, HEAD: classifier(dim // 2, config.num_classes)}


def _build(config: SwinConfig, attention: Attention) -> nn.Module:
    from transformers import SwinConfig as Config
    from transformers import SwinForImageClassification

    return SwinForImageClassification(
        Config(  # type: ignore[call-arg] # num_labels, attn_implementation: of every one, not listed
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


SWIN = BaselineFamily(
    name="Swin",
    implementation="transformers",
    build=_build,
    module_rules=module_rules(
        (r"swin\.embeddings", "patch_embed"),
        (r"swin\.encoder\.layers\.(?P<stage>\d)\.downsample", "patch_embed", 1),
        (_BLOCK + r"(layernorm_before|attention\.[qkvo]_proj)", "attention_projections"),
        (_BLOCK + r"attention", "attention_scores_values"),
        (_BLOCK + r"(layernorm_after|mlp)", "mlp"),
        (r"swin\.layernorm|classifier", HEAD),
    ),
    variants=(
        Variant("swin_tiny", SwinConfig(depths=(2, 2, 6, 2)), Published(28.3, 4.5, _SOURCE)),
        Variant("swin_small", SwinConfig(depths=(2, 2, 18, 2)), Published(49.6, 8.7, _SOURCE)),
        Variant(
            "swin_base",
            SwinConfig(depths=(2, 2, 18, 2), dim=128, heads=(4, 8, 16, 32)),
            Published(87.8, 15.4, _SOURCE),
        ),
    ),
    counts=swin_counts,
    least_size=224,
)
