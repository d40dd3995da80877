"""One split for all models: stages, parts, and the rules that send a module's name to them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from lavit_deploy.model import counts
from lavit_deploy.profiles.counting.closed_form import HEAD, STAGE_NAMES

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


class Rule(NamedTuple):
    """Names that begin with a match belong to `part`.

    Attributes:
        pattern: regular expression; its group "stage", where it has one, is the 0-based stage.
        part: one of `PARTS`.
        stage: added to that group, or the 0-based stage itself where there is no group. Swin's
            merging, for one, sits in the module of the stage before.
    """

    pattern: str
    part: str
    stage: int = 0


@dataclass(frozen=True)
class Splitter:
    """Sends dotted names of modules and parameters to their stage and part.

    Attributes:
        rules: the first that matches the beginning of a name wins.
    """

    rules: tuple[Rule, ...]

    def locate(self, name: str) -> Place:
        """Stage and part of a dotted module or parameter name; `NOWHERE` if no rule knows it."""
        for rule in self.rules:
            match = re.match(rule.pattern, name)
            if match is None:
                continue
            if rule.part == HEAD:
                return Place(HEAD, HEAD)
            stage = int(match.groupdict().get("stage", 0))
            return Place(STAGE_NAMES[stage + rule.stage], rule.part)
        return NOWHERE
