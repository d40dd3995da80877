"""EfficientViT, B series (Cai et al., arXiv:2205.14756): a reference module of this project."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lavit_deploy.profiles.baselines.family import BaselineFamily, Published, Variant
from lavit_deploy.profiles.counting.architecture import Attention
from lavit_deploy.profiles.counting.module_rules import module_rules
from lavit_deploy.profiles.counting.stage_counts import HEAD

if TYPE_CHECKING:
    from torch import nn


_SOURCE = "Cai et al., EfficientViT, arXiv:2205.14756, repository mit-han-lab/efficientvit"
_CONTEXT = r"stages\.(?P<stage>\d)\.blocks\.\d+\.context"


@dataclass(frozen=True, kw_only=True)
class EfficientViTConfig:
    """EfficientViT, B series (Cai et al., arXiv:2205.14756).

    Attributes:
        image_size: input height and width, pixels.
        dims: channels of the stem and the four stages.
        depths: blocks of the stem and the four stages, without the strided one of the last two.
        head_dim: channels of an attention head.
        expand: hidden width of an inverted bottleneck as a multiple of its channels.
        head: channels of the two layers before the classifier.
        num_classes: outputs of the classifier.
    """

    image_size: tuple[int, int] = (224, 224)
    dims: tuple[int, int, int, int, int]
    depths: tuple[int, int, int, int, int]
    head_dim: int = 32
    expand: int = 4
    head: tuple[int, int]
    num_classes: int = 1000


def _build(config: EfficientViTConfig, _attention: Attention) -> nn.Module:
    from lavit_deploy.profiles.baselines.modules.efficientvit import EfficientViT

    return EfficientViT(config)


EFFICIENTVIT = BaselineFamily(
    name="EfficientViT",
    implementation="reference module",
    build=_build,
    module_rules=module_rules(
        (r"stem", "patch_embed"),
        (_CONTEXT + r"\.(qkv|aggregate|proj)", "attention_projections"),
        (_CONTEXT, "attention_scores_values"),
        (r"stages\.(?P<stage>\d)\.blocks", "convolutions"),
        (r"head", HEAD),
    ),
    variants=(
        Variant(
            "efficientvit_b2",
            EfficientViTConfig(
                dims=(24, 48, 96, 192, 384), depths=(1, 3, 4, 4, 6), head=(2304, 2560)
            ),
            Published(24.0, 1.6, _SOURCE),
        ),
    ),
)
