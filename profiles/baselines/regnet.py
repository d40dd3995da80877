"""RegNetY (Radosavovic et al., arXiv:2003.13678), as `transformers` builds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lavit_deploy.profiles.baselines.family import BaselineFamily, Published, Variant
from lavit_deploy.profiles.counting.architecture import Attention
from lavit_deploy.profiles.counting.module_rules import residual_network_rules

if TYPE_CHECKING:
    from torch import nn


_SOURCE = "Radosavovic et al., arXiv:2003.13678, the RegNetY models chosen"


@dataclass(frozen=True, kw_only=True)
class RegNetYConfig:
    """RegNetY (Radosavovic et al., arXiv:2003.13678).

    Attributes:
        image_size: input height and width, pixels.
        depths: residual layers of each stage.
        dims: channels of each stage.
        group_width: channels of a group in the 3 x 3 convolutions.
        num_classes: outputs of the classifier.
    """

    image_size: tuple[int, int] = (224, 224)
    depths: tuple[int, ...]
    dims: tuple[int, ...]
    group_width: int
    num_classes: int = 1000


def _build(config: RegNetYConfig, _attention: Attention) -> nn.Module:
    from transformers import RegNetConfig, RegNetForImageClassification

    return RegNetForImageClassification(
        RegNetConfig(  # type: ignore[call-arg] # num_labels: of every configuration, not listed
            depths=list(config.depths),
            hidden_sizes=list(config.dims),
            groups_width=config.group_width,
            layer_type="y",
            num_labels=config.num_classes,
        )
    )


REGNET = BaselineFamily(
    name="RegNetY",
    implementation="transformers",
    build=_build,
    module_rules=residual_network_rules("regnet"),
    variants=(
        Variant(
            "regnet_y_1_6g",
            RegNetYConfig(depths=(2, 6, 17, 2), dims=(48, 120, 336, 888), group_width=24),
            Published(11.2, 1.6, _SOURCE),
        ),
        Variant(
            "regnet_y_4g",
            RegNetYConfig(depths=(2, 6, 12, 2), dims=(128, 192, 512, 1088), group_width=64),
            Published(20.6, 4.0, _SOURCE),
        ),
    ),
)
