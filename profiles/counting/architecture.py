"""What the profiler must know about a network, whatever it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, Self

from lavit_deploy.profiles.counting.module_rules import ModuleRules
from lavit_deploy.profiles.counting.stage_counts import StageCounts

if TYPE_CHECKING:
    from torch import nn

Attention = Literal["eager", "sdpa"]
"""`eager` writes the scores to memory; `sdpa` is PyTorch's fused attention."""


class Architecture(Protocol):
    """A network of certain sizes: LaViT, or a baseline."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Input height and width, pixels."""

    @property
    def in_channels(self) -> int:
        """Input channels."""

    @property
    def module_rules(self) -> ModuleRules:
        """Where its modules belong."""

    def at(self, image_size: int | None) -> Self:
        """The same for square pictures of `image_size` pixels; None keeps its own size.

        Raises:
            UsageError: the architecture does not exist at that size.
        """

    def closed_form(self) -> StageCounts | None:
        """Multiply-adds by stage and part; None where there is no closed form."""

    def build(self, attention: Attention) -> nn.Module:
        """The network in evaluation mode, float32, on the CPU, with random weights.

        `forward(images [B, C, H, W])` gives logits [B, K], or an object that has them as `logits`.
        """
