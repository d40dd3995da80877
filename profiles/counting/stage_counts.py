"""Multiply-adds by stage and part, in closed form: what every architecture's formula gives.

A closed form knows nothing of tracing: where it equals the traced count, no operator was missed and
none was counted twice. The convention is that of `lavit_deploy.model.counts`: one multiply and one
add are one operation, convolutions and matrix products count, nothing else does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from lavit_deploy.model.config import STAGES

HEAD = "head"
"""Name of the stage, and of the part, that follows the last transformer layer."""

STAGE_NAMES = (*(f"stage {stage + 1}" for stage in range(STAGES)), HEAD)
"""What counts are split by first; a patch embedding or merging belongs to the stage it opens."""

StageCounts = Mapping[str, Counter[str]]
"""Multiply-adds of one image: stage name -> part of `lavit_deploy.model.counts.PARTS` -> count."""


def classifier(dim: int, num_classes: int) -> Counter[str]:
    """Counts of the head: one linear layer from `dim` channels to `num_classes`."""
    return Counter({HEAD: dim * num_classes})


def by_part(counts: StageCounts) -> Counter[str]:
    """Sum over stages."""
    return sum(counts.values(), Counter[str]())


def total(counts: StageCounts) -> int:
    """Sum over stages and parts."""
    return sum(part.total() for part in counts.values())
