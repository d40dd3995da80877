"""One split for all models: the parts that costs and times are divided into."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from lavit_deploy.model import counts
from lavit_deploy.profiles.counting.stage_counts import HEAD

PARTS = (*counts.PARTS[:-1], "convolutions", "token_selection", HEAD)
"""Parts in the order of tables: LaViT's seven, what convolutional networks have instead of
attention, and what some ViTs spend on choosing tokens."""

TITLES: Mapping[str, str] = MappingProxyType(
    {
        "patch_embed": "patch embedding",
        "attention_projections": "attention projections",
        "attention_scores_values": "scores and values",
        "la_transform": "LA transform",
        "attention_residual": "attention residual",
        "mlp": "MLP",
        "convolutions": "convolutions",
        "token_selection": "token selection",
        HEAD: "head",
    }
)
"""What the parts are called in tables and plots."""

OTHER = "other"
"""Where a name goes that no rule knows: sums at the end of a layer, and whatever is unknown."""


class Place(NamedTuple):
    """A stage of `STAGE_NAMES` and a part of `PARTS`, or `OTHER` twice."""

    stage: str
    part: str


NOWHERE = Place(OTHER, OTHER)
