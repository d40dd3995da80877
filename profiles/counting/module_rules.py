"""Rules that send the names of a model's modules to its stages and parts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from lavit_deploy.profiles.counting.parts import NOWHERE, Place
from lavit_deploy.profiles.counting.stage_counts import HEAD, STAGE_NAMES


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
class ModuleRules:
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


def module_rules(*rules: tuple[str, str] | tuple[str, str, int]) -> ModuleRules:
    """Rules from the fields of `Rule`, in the order in which they are tried."""
    return ModuleRules(tuple(Rule(*rule) for rule in rules))


def residual_network_rules(name: str) -> ModuleRules:
    """ResNet and its kin, as `transformers` names their modules."""
    layers = name + r"\.encoder\.stages\.(?P<stage>\d)\.layers"
    return module_rules(
        (name + r"\.embedder", "patch_embed"),
        (layers + r"\.\d+\.shortcut", "patch_embed"),
        (layers, "convolutions"),
        (name + r"\.pooler|classifier", HEAD),
    )
