"""PVT v2 (Wang et al., arXiv:2106.13797), as `transformers` builds it."""

from __future__ import annotations

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


_SOURCE = (
    "Wang et al., PVT v2, arXiv:2106.13797, ImageNet results; "
    "parameters of B1 as the authors' repository whai362/PVT corrects them (13.1 M before)"
)
_BLOCK = r"pvt_v2\.encoder\.layers\.(?P<stage>\d)\.blocks\.\d+\."


@dataclass(frozen=True, kw_only=True)
class PvtV2Config:
    """PVT v2 (W. Wang et al., arXiv:2106.13797, Table 1). Tuples hold one entry per stage.

    Attributes:
        image_size: input height and width, pixels.
        depths: layers.
        dims: channels.
        heads: attention heads.
        mlp_ratios: hidden width of the convolutional MLP as a multiple of the channels.
        sr_ratios: spatial reduction of keys and values.
        kernels: kernel of each overlapping patch embedding, padded by half of it.
        strides: stride of each patch embedding.
        num_classes: outputs of the classifier.
    """

    image_size: tuple[int, int] = (224, 224)
    depths: tuple[int, ...]
    dims: tuple[int, ...] = (64, 128, 320, 512)
    heads: tuple[int, ...] = (1, 2, 5, 8)
    mlp_ratios: tuple[int, ...] = (8, 8, 4, 4)
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1)
    kernels: tuple[int, ...] = (7, 3, 3, 3)
    strides: tuple[int, ...] = (4, 2, 2, 2)
    num_classes: int = 1000


def pvt_v2_counts(config: PvtV2Config) -> StageCounts:
    """PVT v2: overlapping patch embeddings, and a depthwise convolution within every MLP."""
    counts = {}
    height, width = config.image_size
    channels = 3
    for stage, name in enumerate(STAGE_NAMES[:STAGES]):
        kernel, stride, dim = config.kernels[stage], config.strides[stage], config.dims[stage]
        height, width = (
            (side + 2 * (kernel // 2) - kernel) // stride + 1 for side in (height, width)
        )
        ratio, depth = config.sr_ratios[stage], config.depths[stage]
        tokens, keys = height * width, (height // ratio) * (width // ratio)
        hidden = dim * config.mlp_ratios[stage]
        reduction = keys * dim * dim * ratio**2 if ratio > 1 else 0
        counts[name] = Counter(
            patch_embed=tokens * channels * dim * kernel**2,
            attention_projections=depth * (2 * (tokens + keys) * dim * dim + reduction),
            attention_scores_values=depth * 2 * tokens * keys * dim,
            mlp=depth * (2 * tokens * dim * hidden + tokens * hidden * 3**2),
        )
        channels = dim
    return {**counts, HEAD: classifier(channels, config.num_classes)}


def _build(config: PvtV2Config, attention: Attention) -> nn.Module:
    from transformers import PvtV2Config as Config
    from transformers import PvtV2ForImageClassification

    from lavit_deploy.profiles.baselines.modules.fused_pvt import with_fused_attention

    model = PvtV2ForImageClassification(
        Config(  # type: ignore[call-arg] # num_labels: of every configuration, not listed
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
    return with_fused_attention(model) if attention == "sdpa" else model


PVT_V2 = BaselineFamily(
    name="PVT v2",
    implementation="transformers",
    build=_build,
    module_rules=module_rules(
        (r"pvt_v2\.encoder\.layers\.(?P<stage>\d)\.patch_embedding", "patch_embed"),
        (
            _BLOCK + r"(layer_norm_1|"
            r"attention\.(query|key|value|proj|spatial_reduction|layer_norm))",
            "attention_projections",
        ),
        (_BLOCK + r"attention", "attention_scores_values"),
        (_BLOCK + r"(layer_norm_2|mlp)", "mlp"),
        # The norm that closes a stage feeds the next patch embedding, the last one the head.
        (r"pvt_v2\.encoder\.layers\.(?P<stage>[012])\.layer_norm", "patch_embed", 1),
        (r"pvt_v2\.encoder\.layers\.3\.layer_norm|classifier", HEAD),
    ),
    variants=(
        Variant("pvt_v2_b1", PvtV2Config(depths=(2, 2, 2, 2)), Published(14.0, 2.1, _SOURCE)),
        Variant("pvt_v2_b2", PvtV2Config(depths=(3, 4, 6, 3)), Published(25.4, 4.0, _SOURCE)),
    ),
    counts=pvt_v2_counts,
)
