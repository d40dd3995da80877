"""Every family of baselines, and every baseline by its name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from lavit_deploy.profiles.baselines.cvt import CVT
from lavit_deploy.profiles.baselines.efficientnet import EFFICIENTNET
from lavit_deploy.profiles.baselines.efficientvit import EFFICIENTVIT
from lavit_deploy.profiles.baselines.family import Baseline, BaselineFamily
from lavit_deploy.profiles.baselines.lit import LIT
from lavit_deploy.profiles.baselines.plain_vit import PLAIN_VIT
from lavit_deploy.profiles.baselines.pvt import PVT
from lavit_deploy.profiles.baselines.pvt_v2 import PVT_V2
from lavit_deploy.profiles.baselines.regnet import REGNET
from lavit_deploy.profiles.baselines.resnet import RESNET
from lavit_deploy.profiles.baselines.swin import SWIN
from lavit_deploy.profiles.baselines.vit import VIT

FAMILIES: tuple[BaselineFamily[Any], ...] = (
    RESNET,
    REGNET,
    EFFICIENTNET,
    EFFICIENTVIT,
    VIT,
    PVT,
    PVT_V2,
    CVT,
    SWIN,
    PLAIN_VIT,
    LIT,
)
"""Convolutional networks first; in this order on the command line's help."""

BASELINES: Mapping[str, Baseline] = MappingProxyType(
    {baseline.name: baseline for family in FAMILIES for baseline in family.baselines()}
)
"""Every baseline by its name on a command line."""
