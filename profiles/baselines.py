"""The architectures that LaViT is compared with, as data: what was published about each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from lavit_deploy.config import LaViTConfig
from lavit_deploy.errors import ConfigError, UsageError
from profiles.closed_form import (
    PvtV2Config,
    StageCounts,
    SwinConfig,
    lavit_counts,
    pvt_v2_counts,
    swin_counts,
)

Family = Literal["lavit", "pvt", "pvt_v2", "swin"]
"""Architectures whose modules `profiles.parts` knows."""

Architecture = LaViTConfig | PvtV2Config | SwinConfig


@dataclass(frozen=True)
class Published:
    """What the authors print for 224-pixel input and 1000 classes.

    Attributes:
        parameters_m: parameters, millions.
        gflops: multiply-adds of one image, 10^9.
        source: where.
    """

    parameters_m: float
    gflops: float
    source: str


@dataclass(frozen=True)
class Baseline:
    """One published model.

    Attributes:
        name: on the command line.
        family: architecture.
        config: its sizes. PVT v1 is described as the LaViT that has no less-attention.
        published: the authors' counts.
    """

    name: str
    family: Literal["pvt", "pvt_v2", "swin"]
    config: Architecture
    published: Published

    def at(self, image_size: int | None) -> Baseline:
        """The same model for square pictures of `image_size` pixels; None keeps the published size.

        Raises:
            UsageError: the architecture does not exist at that size.
        """
        if image_size is None:
            return self
        try:
            config = dataclasses.replace(self.config, image_size=(image_size, image_size))
        except ConfigError as error:
            raise UsageError(f"{self.name} at {image_size} pixels: {error}") from None
        least, step = (224, 32) if self.family == "swin" else (32, 32)
        if image_size < least or image_size % step:
            raise UsageError(
                f"{self.name} cannot take {image_size} pixels: "
                f"a multiple of {step} from {least} upwards is needed"
            )
        return dataclasses.replace(self, config=config)

    def closed_form(self) -> StageCounts:
        """Multiply-adds by stage and part."""
        return closed_form(self.config)


def closed_form(config: Architecture) -> StageCounts:
    """Multiply-adds of any architecture by stage and part."""
    if isinstance(config, LaViTConfig):
        return lavit_counts(config)
    if isinstance(config, PvtV2Config):
        return pvt_v2_counts(config)
    return swin_counts(config)


_PVT = "Wang et al., Pyramid Vision Transformer, arXiv:2102.12122, ImageNet results"
_PVT_V2 = (
    "Wang et al., PVT v2, arXiv:2106.13797, ImageNet results; "
    "parameters of B1 as the authors' repository whai362/PVT corrects them (13.1 M before)"
)
_SWIN = "Liu et al., Swin Transformer, arXiv:2103.14030, ImageNet results"


def _pvt(name: str, depths: tuple[int, ...], parameters_m: float, gflops: float) -> Baseline:
    config = LaViTConfig(
        depths=depths,
        dims=(64, 128, 320, 512),
        heads=(1, 2, 5, 8),
        mlp_ratios=(8, 8, 4, 4),
        sr_ratios=(8, 4, 2, 1),
        la_start=(0, 0, 0, 0),
        attention_residual=False,
        class_token=True,
    )
    return Baseline(name, "pvt", config, Published(parameters_m, gflops, _PVT))


def _pvt_v2(name: str, depths: tuple[int, ...], parameters_m: float, gflops: float) -> Baseline:
    return Baseline(
        name, "pvt_v2", PvtV2Config(depths=depths), Published(parameters_m, gflops, _PVT_V2)
    )


def _swin(name: str, depths: tuple[int, ...], parameters_m: float, gflops: float) -> Baseline:
    return Baseline(name, "swin", SwinConfig(depths=depths), Published(parameters_m, gflops, _SWIN))


BASELINES: Mapping[str, Baseline] = MappingProxyType(
    {
        baseline.name: baseline
        for baseline in (
            _pvt("pvt_tiny", (2, 2, 2, 2), 13.2, 1.9),
            _pvt("pvt_small", (3, 4, 6, 3), 24.5, 3.8),
            _pvt("pvt_medium", (3, 4, 18, 3), 44.2, 6.7),
            _pvt_v2("pvt_v2_b1", (2, 2, 2, 2), 14.0, 2.1),
            _pvt_v2("pvt_v2_b2", (3, 4, 6, 3), 25.4, 4.0),
            _swin("swin_tiny", (2, 2, 6, 2), 28.3, 4.5),
            _swin("swin_small", (2, 2, 18, 2), 49.6, 8.7),
        )
    }
)
"""Every baseline by its name on a command line."""

PAPER = MappingProxyType(
    {
        name: Published(parameters_m, gflops, "Zhang et al., arXiv:2406.00427, Table 2")
        for name, parameters_m, gflops in (
            ("lavit_t", 10.9, 1.6),
            ("lavit_s", 22.4, 3.3),
            ("lavit_b", 39.6, 6.1),
        )
    }
)
"""What the paper prints for LaViT. No reading of it gives these FLOPs, nor T's and B's parameters:
they are shown beside this project's counts, never in their place."""
