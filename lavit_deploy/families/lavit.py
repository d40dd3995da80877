"""LaViT as a model family; the network itself is `lavit_deploy.model`."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from lavit_deploy.common.errors import ConfigError
from lavit_deploy.families.family import ModelFamily
from lavit_deploy.model.config import PRESETS, STAGES, LaViTConfig
from lavit_deploy.model.counts import parameter_count, stage_multiply_adds

if TYPE_CHECKING:
    from torch import nn

    from lavit_deploy.folding.fold import Folding
    from lavit_deploy.model.lavit import LaViT
    from lavit_deploy.preprocess import Preprocess

_NARROWEST = 4
"""Longest side of a picture that is thought of unasked, as a multiple of the other."""

_SCORE_MAPS = re.compile(r"\.chain(\.|$)|\.(theta|psi)(\.|$)|\.residual(\.|$)")
"""Maps of scores (Eq. 5 to 7), in the network and in its folded form."""

_BLOCK = r"stages\.(?P<stage>\d)\.blocks\.\d+\."
_MODULE_PARTS = (
    (r"normalise", "patch_embed"),
    (r"stages\.(?P<stage>\d)\.(patch_embed|class_token)", "patch_embed"),
    (r"stages\.(?P<stage>\d)\.residual", "attention_residual"),
    (r"stages\.(?P<stage>\d)\.chain", "la_transform"),
    (_BLOCK + r"attn\.(theta|psi)", "la_transform"),
    (
        _BLOCK + r"(norm1|attn\.(q|kv|v|proj|reduce|projections|stacked)\b)",
        "attention_projections",
    ),
    (_BLOCK + r"attn", "attention_scores_values"),
    (_BLOCK + r"(norm2|mlp)", "mlp"),
    (r"norm|last_norm|head", "head"),
)
"""Of LaViT as it is trained, and as it is folded for export."""


_ATTENTION = "stages.{}.blocks.{}.attn"


def _less_attention(config: LaViTConfig) -> list[tuple[int, int]]:
    """The last LA layer of each stage that has one: 0-based stage and layer."""
    last = [(stage, depth - 1) for stage, depth in enumerate(config.depths)]
    return [(stage, layer) for stage, layer in last if config.is_less_attention(stage, layer)]


def _tokens(config: LaViTConfig, shapes: Mapping[str, tuple[int, ...]]) -> dict[int, int]:
    """Tokens on the grid of each stage whose LA maps are there, from their shapes."""
    names = {
        stage: f"{_ATTENTION.format(stage, layer)}.psi.weight"
        for stage, layer in _less_attention(config)
    }
    return {
        stage: shapes[name][0] - config.has_class_token(stage)
        for stage, name in names.items()
        if len(shapes.get(name, ())) == 2
    }


def _grids(tokens: int) -> list[tuple[int, int]]:
    """Every grid of so many tokens that is not too narrow: height and width."""
    sides = ((height, tokens // height) for height in range(1, tokens + 1) if tokens % height == 0)
    return [grid for grid in sides if max(grid) <= _NARROWEST * min(grid)]


class LaViTFamily(ModelFamily[LaViTConfig]):
    """Less-Attention Vision Transformers (CVPR 2024, arXiv:2406.00427)."""

    name: ClassVar[str] = "lavit"
    config_type = LaViTConfig
    presets = PRESETS
    module_parts = _MODULE_PARTS
    free_fields = ModelFamily.free_fields | {"class_token", "in_channels"}

    def read_config(self, values: dict[str, Any]) -> LaViTConfig:
        return LaViTConfig.from_dict(values)

    def build(self, config: LaViTConfig) -> LaViT:
        from lavit_deploy.model.lavit import LaViT

        return LaViT(config)

    def layer_names(self, config: LaViTConfig) -> tuple[str, ...]:
        names = []
        for stage, depth in enumerate(config.depths):
            names.append(f"stages.{stage}.patch_embed")
            names += [f"stages.{stage}.blocks.{layer}" for layer in range(depth)]
        return (*names, "norm", "head")

    def float32_modules(self, model: nn.Module) -> frozenset[str]:
        """What loses accuracy in half precision: maps of scores, and all outside the stages."""
        from lavit_deploy.folding.modules.scores import ScoreMap
        from lavit_deploy.model.lavit import AttentionResidual

        outside = {name for name, _ in model.named_children() if name != "stages"}
        maps = {
            name
            for name, module in model.named_modules()
            if isinstance(module, AttentionResidual | ScoreMap)
            or name.endswith((".attn.theta", ".attn.psi"))
        }
        return frozenset(outside | maps)

    def parameter_count(self, config: LaViTConfig) -> Counter[str]:
        return parameter_count(config)

    def multiply_adds(self, config: LaViTConfig) -> Mapping[str, Counter[str]]:
        stages = {
            f"stage {index + 1}": stage_multiply_adds(config, index) for index in range(STAGES)
        }
        return {**stages, "head": Counter(head=config.dims[-1] * config.num_classes)}

    def fold(self, model: nn.Module, preprocess: Preprocess) -> Folding[nn.Module]:
        from lavit_deploy.folding.fold import fold
        from lavit_deploy.model.lavit import LaViT

        if not isinstance(model, LaViT):
            raise TypeError(f"expected a LaViT, given a {type(model).__name__}")
        return fold(model, preprocess)

    def takes_pixels(self, model: nn.Module) -> bool:
        from lavit_deploy.folding.modules.model import FoldedLaViT

        return isinstance(model, FoldedLaViT)

    def stays_float(self, scope: str) -> bool:
        return _SCORE_MAPS.search(scope) is not None

    def fitted_preset(self, name: str, shapes: Mapping[str, tuple[int, ...]]) -> LaViTConfig:
        """The preset with the channels, classes, class token and size that the tensors show."""
        config = self.preset(name)
        changes: dict[str, Any] = {}
        head = shapes.get("head.weight", ())
        if len(head) == 2:
            changes["num_classes"] = head[0]
        first = shapes.get("stages.0.patch_embed.proj.weight", ())
        if len(first) == 4:
            changes["in_channels"] = first[1]
        changes["class_token"] = f"stages.{STAGES - 1}.class_token" in shapes
        changes["attention_residual"] = "stages.1.residual.scale" in shapes
        try:
            changed = dataclasses.replace(config, **changes)
        except ConfigError:
            return config  # tensors of something else; the mismatch is reported against it
        sizes = self.equal_sizes(changed, shapes)
        if not sizes or changed.image_size in sizes:
            return changed
        return dataclasses.replace(changed, image_size=sizes[0])

    def equal_sizes(
        self, config: LaViTConfig, shapes: Mapping[str, tuple[int, ...]]
    ) -> tuple[tuple[int, int], ...]:
        """Sizes whose tokens are as many as the LA maps have rows; none narrower than 1 to 4.

        Psi is N x N and Theta M x M, so they show how many tokens there are and not how they lie.
        """
        sizes: list[tuple[int, int]] = []
        for stage, count in _tokens(config, shapes).items():
            stride = math.prod(config.patch_sizes[: stage + 1])
            sizes = [(height * stride, width * stride) for height, width in _grids(count)]
            break  # the others must agree, which `_fits` asks
        fitting = [size for size in sizes if self._fits(config, size, shapes)]
        return tuple(sorted(fitting, key=lambda size: max(size) / min(size)))

    def _fits(
        self, config: LaViTConfig, size: tuple[int, int], shapes: Mapping[str, tuple[int, ...]]
    ) -> bool:
        """Whether LA maps at a picture's size have the shapes of those that are given."""
        try:
            sized = dataclasses.replace(config, image_size=size)
        except ConfigError:
            return False
        wanted = {
            name: (count, count)
            for stage, layer in _less_attention(config)
            for name, count in (
                (f"{_ATTENTION.format(stage, layer)}.psi.weight", sized.tokens(stage)),
                (f"{_ATTENTION.format(stage, layer)}.theta.weight", sized.keys(stage)),
            )
        }
        return all(shapes.get(name, shape) == shape for name, shape in wanted.items())


LAVIT = LaViTFamily()
