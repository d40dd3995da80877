"""CvT (Wu et al., arXiv:2103.15808), as `transformers` builds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lavit_deploy.profiles.baselines.family import BaselineFamily, Published, Variant
from lavit_deploy.profiles.counting.architecture import Attention
from lavit_deploy.profiles.counting.module_rules import module_rules
from lavit_deploy.profiles.counting.stage_counts import HEAD

if TYPE_CHECKING:
    from torch import nn


_SOURCE = "Wu et al., CvT, arXiv:2103.15808, ImageNet results"
_LAYER = r"cvt\.encoder\.stages\.(?P<stage>\d)\.layers\.\d+\."


@dataclass(frozen=True, kw_only=True)
class CvtConfig:
    """CvT (Wu et al., arXiv:2103.15808).

    Attributes:
        image_size: input height and width, pixels.
        depths: layers of the three stages.
        dims: channels.
        heads: attention heads.
        num_classes: outputs of the classifier.
    """

    image_size: tuple[int, int] = (224, 224)
    depths: tuple[int, int, int]
    dims: tuple[int, int, int] = (64, 192, 384)
    heads: tuple[int, int, int] = (1, 3, 6)
    num_classes: int = 1000


def _build(config: CvtConfig, _attention: Attention) -> nn.Module:
    from transformers import CvtConfig as Config
    from transformers import CvtForImageClassification

    return CvtForImageClassification(
        Config(  # type: ignore[call-arg] # num_labels: of every configuration, not listed
            depth=list(config.depths),
            embed_dim=list(config.dims),
            num_heads=list(config.heads),
            num_labels=config.num_classes,
        )
    )


CVT = BaselineFamily(
    name="CvT",
    implementation="transformers",
    build=_build,
    module_rules=module_rules(
        (r"cvt\.encoder\.stages\.(?P<stage>\d)\.(embedding|cls_token)", "patch_embed"),
        (
            _LAYER + r"(layernorm_before|attention\.output|"
            r"attention\.attention\.(convolution_)?projection)",
            "attention_projections",
        ),
        (_LAYER + r"attention", "attention_scores_values"),
        (_LAYER + r"(layernorm_after|intermediate|output)", "mlp"),
        (r"layernorm|classifier", HEAD),
    ),
    variants=(Variant("cvt_13", CvtConfig(depths=(1, 2, 10)), Published(20.0, 4.5, _SOURCE)),),
    size_step=16,
)
