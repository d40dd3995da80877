"""EfficientNet (Tan and Le, arXiv:1905.11946), as `transformers` builds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lavit_deploy.profiles.baselines.family import BaselineFamily, Published, Variant
from lavit_deploy.profiles.counting.architecture import Attention
from lavit_deploy.profiles.counting.module_rules import module_rules
from lavit_deploy.profiles.counting.stage_counts import HEAD

if TYPE_CHECKING:
    from torch import nn


_SOURCE = "torchvision, documentation of the weights (their counts, the same architecture)"


@dataclass(frozen=True, kw_only=True)
class EfficientNetConfig:
    """EfficientNet (Tan and Le, arXiv:1905.11946, Table 1 and equation 3).

    Attributes:
        image_size: input height and width, pixels.
        width: multiple of the channels of B0.
        depth: multiple of the layers of B0.
        head: channels before the classifier.
        padded: layers whose odd input sizes need one more pixel of padding on each side.
        num_classes: outputs of the classifier.
    """

    image_size: tuple[int, int]
    width: float
    depth: float
    head: int
    padded: tuple[int, ...]
    num_classes: int = 1000


def _build(config: EfficientNetConfig, _attention: Attention) -> nn.Module:
    from transformers import EfficientNetConfig as Config
    from transformers import EfficientNetForImageClassification

    return EfficientNetForImageClassification(
        Config(  # type: ignore[call-arg] # num_labels: of every configuration, not listed
            image_size=config.image_size[0],
            width_coefficient=config.width,
            depth_coefficient=config.depth,
            hidden_dim=config.head,
            depthwise_padding=list(config.padded),
            num_labels=config.num_classes,
        )
    )


EFFICIENTNET = BaselineFamily(
    name="EfficientNet",
    implementation="transformers",
    build=_build,
    # Stages by resolution: down to a quarter, an eighth, a sixteenth, and the rest. The numbers of
    # the blocks are those of B4.
    module_rules=module_rules(
        (r"efficientnet\.embeddings", "patch_embed"),
        (r"efficientnet\.encoder\.blocks\.[0-5]\.", "convolutions", 0),
        (r"efficientnet\.encoder\.blocks\.[6-9]\.", "convolutions", 1),
        (r"efficientnet\.encoder\.blocks\.(1\d|2[01])\.", "convolutions", 2),
        (r"efficientnet\.encoder\.blocks\.(2[2-9]|3[01])\.", "convolutions", 3),
        (r"efficientnet\.encoder\.top|efficientnet\.pooler|classifier|dropout", HEAD),
    ),
    variants=(
        Variant(
            "efficientnet_b4",
            EfficientNetConfig(image_size=(380, 380), width=1.4, depth=1.8, head=1792, padded=(6,)),
            Published(19.3, 4.39, _SOURCE),
            ("at its own 380 pixels",),
        ),
    ),
)
