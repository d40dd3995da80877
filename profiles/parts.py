"""One split for all models: from a module's or parameter's name to its stage and part."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from profiles.baselines import Family
from profiles.closed_form import HEAD, STAGE_NAMES

OTHER = "other"
"""Where a name goes that no rule knows; nothing of the known architectures lands there."""


class Place(NamedTuple):
    """A stage of `STAGE_NAMES` and a part of `lavit_deploy.counting.PARTS`, or `OTHER`."""

    stage: str
    part: str


class _Rule(NamedTuple):
    """Names that match belong to `part`; the first group is the 0-based stage, where it exists.

    `later` moves the stage on: Swin's merging sits in the module of the stage that it closes.
    """

    pattern: re.Pattern[str]
    part: str
    later: int = 0


def _rules(*rules: tuple[str, str] | tuple[str, str, int]) -> tuple[_Rule, ...]:
    return tuple(_Rule(re.compile(rule[0]), *rule[1:]) for rule in rules)


# The first rule that matches the beginning of a name wins.
_LAVIT_BLOCK = r"stages\.(\d)\.blocks\.\d+\."
_PVT_BLOCK = r"pvt\.encoder\.block\.(\d)\.\d+\."
_PVT_V2_BLOCK = r"pvt_v2\.encoder\.layers\.(\d)\.blocks\.\d+\."
_SWIN_BLOCK = r"swin\.encoder\.layers\.(\d)\.blocks\.\d+\."
_RULES: Mapping[Family, tuple[_Rule, ...]] = MappingProxyType(
    {
        "lavit": _rules(
            (r"stages\.(\d)\.(patch_embed|class_token)", "patch_embed"),
            (r"stages\.(\d)\.residual", "attention_residual"),
            (_LAVIT_BLOCK + r"attn\.(theta|psi)", "la_transform"),
            (_LAVIT_BLOCK + r"(norm1|attn\.(q|kv|v|proj|reduce)\b)", "attention_projections"),
            (_LAVIT_BLOCK + r"attn", "attention_scores_values"),
            (_LAVIT_BLOCK + r"(norm2|mlp)", "mlp"),
            (r"norm|head", HEAD),
        ),
        "pvt": _rules(
            (r"pvt\.encoder\.patch_embeddings\.(\d)", "patch_embed"),
            (
                _PVT_BLOCK + r"(layer_norm_1|attention\.output|"
                r"attention\.self\.(query|key|value|sequence_reduction|layer_norm))",
                "attention_projections",
            ),
            (_PVT_BLOCK + r"attention", "attention_scores_values"),
            (_PVT_BLOCK + r"(layer_norm_2|mlp)", "mlp"),
            (r"pvt\.encoder\.layer_norm|classifier", HEAD),
        ),
        "pvt_v2": _rules(
            (r"pvt_v2\.encoder\.layers\.(\d)\.patch_embedding", "patch_embed"),
            (
                _PVT_V2_BLOCK + r"(layer_norm_1|"
                r"attention\.(query|key|value|proj|spatial_reduction|layer_norm))",
                "attention_projections",
            ),
            (_PVT_V2_BLOCK + r"attention", "attention_scores_values"),
            (_PVT_V2_BLOCK + r"(layer_norm_2|mlp)", "mlp"),
            # The norm that closes a stage feeds the next patch embedding, the last one the head.
            (r"pvt_v2\.encoder\.layers\.([012])\.layer_norm", "patch_embed", 1),
            (r"pvt_v2\.encoder\.layers\.3\.layer_norm|classifier", HEAD),
        ),
        "swin": _rules(
            (r"swin\.embeddings()", "patch_embed"),
            (r"swin\.encoder\.layers\.(\d)\.downsample", "patch_embed", 1),
            (
                _SWIN_BLOCK + r"(layernorm_before|attention\.[qkvo]_proj)",
                "attention_projections",
            ),
            (_SWIN_BLOCK + r"attention", "attention_scores_values"),
            (_SWIN_BLOCK + r"(layernorm_after|mlp)", "mlp"),
            (r"swin\.layernorm|classifier", HEAD),
        ),
    }
)


def locate(family: Family, name: str) -> Place:
    """Stage and part of a dotted module or parameter name; `OTHER` where no rule knows it."""
    for rule in _RULES[family]:
        match = rule.pattern.match(name)
        if match is None:
            continue
        if rule.part == HEAD:
            return Place(HEAD, HEAD)
        return Place(STAGE_NAMES[int(match[1] or 0) + rule.later], rule.part)
    return Place(OTHER, OTHER)
