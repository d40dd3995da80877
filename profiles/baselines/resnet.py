"""ResNet (He et al., arXiv:1512.03385), as `transformers` builds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lavit_deploy.profiles.baselines.family import BaselineFamily, Published, Variant
from lavit_deploy.profiles.counting.architecture import Attention
from lavit_deploy.profiles.counting.module_rules import residual_network_rules

if TYPE_CHECKING:
    from torch import nn


_SOURCE = "torchvision, documentation of the weights (their counts, the same architecture)"


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """ResNet (He et al., arXiv:1512.03385), stride in the 3 x 3 convolution of a bottleneck.

    Attributes:
        image_size: input height and width, pixels.
        depths: residual layers of each stage.
        dims: output channels of each stage.
        bottleneck: whether a layer is 1 x 1, 3 x 3, 1 x 1 instead of two 3 x 3 convolutions.
        num_classes: outputs of the classifier.
    """

    image_size: tuple[int, int] = (224, 224)
    depths: tuple[int, ...]
    dims: tuple[int, ...] = (256, 512, 1024, 2048)
    bottleneck: bool = True
    num_classes: int = 1000


def _build(config: ResNetConfig, _attention: Attention) -> nn.Module:
    from transformers import ResNetConfig as Config
    from transformers import ResNetForImageClassification

    return ResNetForImageClassification(
        Config(  # type: ignore[call-arg] # num_labels: of every configuration, not listed
            depths=list(config.depths),
            hidden_sizes=list(config.dims),
            layer_type="bottleneck" if config.bottleneck else "basic",
            num_labels=config.num_classes,
        )
    )


RESNET = BaselineFamily(
    name="ResNet",
    implementation="transformers",
    build=_build,
    module_rules=residual_network_rules("resnet"),
    variants=(
        Variant(
            "resnet_18",
            ResNetConfig(depths=(2, 2, 2, 2), dims=(64, 128, 256, 512), bottleneck=False),
            Published(11.7, 1.81, _SOURCE),
        ),
        Variant("resnet_50", ResNetConfig(depths=(3, 4, 6, 3)), Published(25.6, 4.09, _SOURCE)),
        Variant("resnet_101", ResNetConfig(depths=(3, 4, 23, 3)), Published(44.5, 7.80, _SOURCE)),
    ),
)
