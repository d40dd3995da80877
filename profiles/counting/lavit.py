"""LaViT for the profiler; also PVT v1, which is a LaViT that has no less-attention."""

from __future__ import annotations

from lavit_deploy.families.lavit import LAVIT
from lavit_deploy.model.config import LaViTConfig
from lavit_deploy.profiles.counting.module_rules import module_rules
from lavit_deploy.profiles.counting.stage_counts import StageCounts

LAVIT_MODULES = module_rules(*LAVIT.module_parts)
"""LaViT as it is trained, and as it is folded for export."""


def lavit_counts(config: LaViTConfig) -> StageCounts:
    """LaViT; also PVT v1, which is a LaViT without less-attention and attention residuals."""
    return LAVIT.multiply_adds(config)
