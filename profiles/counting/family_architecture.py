"""A model family for the profiler: its counts in closed form, and which of its modules is what."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lavit_deploy.common.errors import ConfigError, UsageError
from lavit_deploy.families.catalogue import Family, family_of
from lavit_deploy.families.family import Configuration
from lavit_deploy.profiles.counting.architecture import Attention
from lavit_deploy.profiles.counting.module_rules import ModuleRules, module_rules
from lavit_deploy.profiles.counting.stage_counts import StageCounts

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class FamilyArchitecture:
    """A model of certain sizes of any family, as an `Architecture`.

    Attributes:
        config: its sizes.
    """

    config: Configuration

    @property
    def family(self) -> Family:
        """The family that the sizes are of."""
        return family_of(self.config)

    @property
    def image_size(self) -> tuple[int, int]:
        """Input height and width, pixels."""
        return self.config.image_size

    @property
    def in_channels(self) -> int:
        """Input channels."""
        return self.config.in_channels

    @property
    def module_rules(self) -> ModuleRules:
        """Where its modules belong."""
        return module_rules(*self.family.module_parts)

    def at(self, image_size: int | None) -> FamilyArchitecture:
        """The same for square pictures of `image_size` pixels; None keeps its own size.

        Raises:
            UsageError: it does not exist at that size.
        """
        if image_size is None:
            return self
        try:
            config = self.family.resized(self.config, (image_size, image_size))
        except ConfigError as error:
            raise UsageError(f"at {image_size} pixels: {error}") from None
        return FamilyArchitecture(config)

    def closed_form(self) -> StageCounts:
        """Multiply-adds by stage and part."""
        return self.family.multiply_adds(self.config)

    def parameters(self) -> Counter[str]:
        """Parameters by part, in closed form."""
        return self.family.parameter_count(self.config)

    def build(self, _attention: Attention) -> nn.Module:
        """The network with random weights; how it computes attention is its own choice."""
        return self.family.build(self.config).eval()
