"""LIT (Pan et al., arXiv:2105.14217): a reference module of this project."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lavit_deploy.profiles.baselines.family import BaselineFamily, Published, Variant
from lavit_deploy.profiles.counting.architecture import Attention
from lavit_deploy.profiles.counting.module_rules import module_rules
from lavit_deploy.profiles.counting.stage_counts import HEAD

if TYPE_CHECKING:
    from torch import nn


_SOURCE = "Pan et al., LIT, arXiv:2105.14217, and the authors' repository ziplab/LIT"
_BLOCK = r"stages\.(?P<stage>\d)\.blocks\.\d+\."


@dataclass(frozen=True, kw_only=True)
class LitConfig:
    """LIT (Pan et al., arXiv:2105.14217): attention in the last two stages only.

    Attributes:
        image_size: input height and width, pixels.
        depths: layers.
        dim: channels of the first stage; each later stage doubles them.
        heads: attention heads; of no use in stages without attention.
        attention: whether a stage has attention.
        mlp_ratio: hidden width of the MLP as a multiple of the channels.
        patch: side of a patch, pixels.
        num_classes: outputs of the classifier.
    """

    image_size: tuple[int, int] = (224, 224)
    depths: tuple[int, ...]
    dim: int = 96
    heads: tuple[int, ...] = (3, 6, 12, 24)
    attention: tuple[bool, ...] = (False, False, True, True)
    mlp_ratio: int = 4
    patch: int = 4
    num_classes: int = 1000


def _build(config: LitConfig, attention: Attention) -> nn.Module:
    from lavit_deploy.profiles.baselines.modules.lit import Lit

    return Lit(config, fused=attention == "sdpa")


LIT = BaselineFamily(
    name="LIT",
    implementation="reference module",
    build=_build,
    module_rules=module_rules(
        (r"patch_embed", "patch_embed"),
        (r"stages\.(?P<stage>\d)\.merge", "patch_embed"),
        (_BLOCK + r"(norm1|attn\.(qkv|proj))", "attention_projections"),
        (_BLOCK + r"attn", "attention_scores_values"),
        (_BLOCK + r"(norm2|mlp)", "mlp"),
        (r"norm|head", HEAD),
    ),
    variants=(
        Variant("lit_s", LitConfig(depths=(2, 2, 6, 2)), Published(27.0, 4.1, _SOURCE)),
        Variant("lit_m", LitConfig(depths=(2, 2, 18, 2)), Published(48.0, 8.6, _SOURCE)),
    ),
)
