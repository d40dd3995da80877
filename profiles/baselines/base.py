"""A baseline: its name, sizes, and what its authors print about it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from lavit_deploy.common.errors import ConfigError, UsageError
from lavit_deploy.model.config import LaViTConfig
from lavit_deploy.profiles.baselines.configs import (
    CvtConfig,
    EfficientNetConfig,
    EfficientViTConfig,
    LitConfig,
    RegNetYConfig,
    ResNetConfig,
)
from lavit_deploy.profiles.baselines.published import Published
from lavit_deploy.profiles.counting.closed_form import (
    PvtV2Config,
    StageCounts,
    SwinConfig,
    ViTConfig,
    lavit_counts,
    pvt_v2_counts,
    swin_counts,
    vit_counts,
)

Family = Literal[
    "lavit",
    "pvt",
    "pvt_v2",
    "swin",
    "vit",
    "resnet",
    "regnet",
    "efficientnet",
    "cvt",
    "plain",
    "lit",
    "efficientvit",
]
"""Naming of modules, which `module_rules` knows. "plain" is that of the reference ViTs here."""

Architecture = (
    LaViTConfig
    | PvtV2Config
    | SwinConfig
    | ViTConfig
    | ResNetConfig
    | RegNetYConfig
    | EfficientNetConfig
    | CvtConfig
    | LitConfig
    | EfficientViTConfig
)

Attention = Literal["eager", "sdpa"]
"""`eager` writes the scores to memory; `sdpa` is PyTorch's fused attention."""

# Smallest side and step of a side, pixels.
_SIZES: dict[Family, tuple[int, int]] = {
    "swin": (224, 32),
    "vit": (32, 16),
    "plain": (112, 16),
    "cvt": (32, 16),
}
_SIZE = (32, 32)


@dataclass(frozen=True)
class Baseline:
    """One published model.

    Attributes:
        name: on the command line.
        family: naming of its modules.
        config: its sizes. PVT v1 is described as the LaViT that has no less-attention.
        published: the authors' counts; None where none were found for this variant.
        notes: what a reader must know about it.
    """

    name: str
    family: Family
    config: Architecture
    published: Published | None
    notes: tuple[str, ...] = ()

    def at(self, image_size: int | None) -> Baseline:
        """The same model for square pictures of `image_size` pixels; None keeps the published size.

        Raises:
            UsageError: the architecture does not exist at that size.
        """
        if image_size is None or self.config.image_size == (image_size, image_size):
            return self
        try:
            config = dataclasses.replace(self.config, image_size=(image_size, image_size))
        except ConfigError as error:
            raise UsageError(f"{self.name} at {image_size} pixels: {error}") from None
        least, step = _SIZES.get(self.family, _SIZE)
        if image_size < least or image_size % step:
            raise UsageError(
                f"{self.name} cannot take {image_size} pixels: "
                f"a multiple of {step} from {least} upwards is needed"
            )
        return dataclasses.replace(self, config=config)

    def closed_form(self) -> StageCounts | None:
        """Multiply-adds by stage and part; None where there is no closed form."""
        return closed_form(self.config)


def closed_form(config: Architecture) -> StageCounts | None:
    """Multiply-adds of an architecture by stage and part; None where there is no closed form."""
    if isinstance(config, LaViTConfig):
        return lavit_counts(config)
    if isinstance(config, PvtV2Config):
        return pvt_v2_counts(config)
    if isinstance(config, SwinConfig):
        return swin_counts(config)
    if isinstance(config, ViTConfig) and config.reduction != "ppt":
        return vit_counts(config)
    return None
