"""LaViT for the profiler: its counts by stage in closed form, and which of its modules is what."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lavit_deploy.common.errors import ConfigError, UsageError
from lavit_deploy.model.config import STAGES, LaViTConfig
from lavit_deploy.model.counts import stage_multiply_adds
from lavit_deploy.profiles.counting.architecture import Attention
from lavit_deploy.profiles.counting.module_rules import ModuleRules, module_rules
from lavit_deploy.profiles.counting.stage_counts import HEAD, STAGE_NAMES, StageCounts, classifier

if TYPE_CHECKING:
    from torch import nn

_BLOCK = r"stages\.(?P<stage>\d)\.blocks\.\d+\."

LAVIT_MODULES = module_rules(
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
    (r"norm|last_norm|head", HEAD),
)
"""LaViT as it is trained, and as it is folded for export."""


def lavit_counts(config: LaViTConfig) -> StageCounts:
    """LaViT; also PVT v1, which is a LaViT without less-attention and attention residuals."""
    counts = {
        name: stage_multiply_adds(config, stage) for stage, name in enumerate(STAGE_NAMES[:STAGES])
    }
    return {**counts, HEAD: classifier(config.dims[-1], config.num_classes)}


@dataclass(frozen=True)
class LaViTArchitecture:
    """A LaViT of certain sizes, as an `Architecture`.

    Attributes:
        config: its sizes.
    """

    config: LaViTConfig

    @property
    def image_size(self) -> tuple[int, int]:
        """Input height and width, pixels."""
        return self.config.image_size

    @property
    def module_rules(self) -> ModuleRules:
        """Where its modules belong."""
        return LAVIT_MODULES

    def at(self, image_size: int | None) -> LaViTArchitecture:
        """The same for square pictures of `image_size` pixels; None keeps its own size.

        Raises:
            UsageError: its stages do not divide that size.
        """
        if image_size is None:
            return self
        try:
            config = dataclasses.replace(self.config, image_size=(image_size, image_size))
        except ConfigError as error:
            raise UsageError(f"at {image_size} pixels: {error}") from None
        return LaViTArchitecture(config)

    def closed_form(self) -> StageCounts:
        """Multiply-adds by stage and part."""
        return lavit_counts(self.config)

    def build(self, _attention: Attention) -> nn.Module:
        """The network with random weights; it needs its scores, so attention is always eager."""
        from lavit_deploy.model.lavit import LaViT

        return LaViT(self.config).eval()
