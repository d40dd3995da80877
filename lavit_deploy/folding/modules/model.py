"""The folded LaViT: blocks, stages and the whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from lavit_deploy.folding.modules.attention import (
    AbsorbedAttention,
    FoldedLessAttention,
    FoldedVanillaAttention,
)
from lavit_deploy.folding.modules.patches import FoldedPatchEmbed, PixelNormalisation
from lavit_deploy.folding.modules.scores import Scores, SerialMaps
from lavit_deploy.model.config import STAGES, LaViTConfig
from lavit_deploy.model.lavit import Mlp


class FoldedBlock(nn.Module):
    """Pre-norm transformer layer around either kind of attention."""

    def __init__(
        self,
        norm1: nn.LayerNorm,
        attn: FoldedVanillaAttention | AbsorbedAttention | FoldedLessAttention,
        norm2: nn.LayerNorm,
        mlp: Mlp,
    ) -> None:
        super().__init__()
        self.norm1 = norm1
        self.attn: FoldedVanillaAttention | AbsorbedAttention | FoldedLessAttention = attn
        self.norm2 = norm2
        self.mlp = mlp

    def forward(self, x: Tensor, scores: Tensor | None) -> tuple[Tensor, Scores | None]:
        """One layer.

        Args:
            x: tokens [B, N, D].
            scores: [B, H, N, M]; an LA layer's own scores, or the residual to add, or None.

        Returns:
            Tokens [B, N, D], and a vanilla layer's scores.
        """
        made: Scores | None = None
        if isinstance(self.attn, FoldedLessAttention):
            mixed = self.attn(self.norm1(x), scores)
        else:
            mixed, made = self.attn(self.norm1(x), scores)
        return self.feed_forward(x + mixed), made

    def feed_forward(self, x: Tensor) -> Tensor:
        """The residual MLP: [B, N, D] -> [B, N, D]."""
        return x + self.mlp(self.norm2(x))


class FoldedStage(nn.Module):
    """Patch embedding, attention residual, vanilla layers, then the LA layers of one stage.

    Args:
        patch_embed: [B, N', C] -> [B, N, D].
        residual: scores of the previous stage -> residual of this one, or None.
        class_token: [1, 1, D] or None.
        blocks: the layers, vanilla ones first.
        chain: the LA layers' map of scores; None without LA layers.
    """

    def __init__(
        self,
        patch_embed: FoldedPatchEmbed,
        residual: nn.Module | None,
        class_token: nn.Parameter | None,
        blocks: list[FoldedBlock],
        chain: SerialMaps | None,
    ) -> None:
        super().__init__()
        self.patch_embed = patch_embed
        self.residual = residual
        self.class_token = class_token
        self.blocks = nn.ModuleList(blocks)
        self.vanilla = sum(not isinstance(block.attn, FoldedLessAttention) for block in blocks)
        self.chain: nn.Module | None = chain

    def forward(self, x: Tensor, previous: Tensor | None) -> tuple[Tensor, Tensor]:
        """One stage.

        Args:
            x: pictures [B, h*p, w*p, C] or tokens [B, h*p * w*p, C].
            previous: last scores of the previous stage [B, H', N', M], None in the first.

        Returns:
            Tokens [B, N, D] and the last layer's scores [B, H, N, M].
        """
        x, source = self.vanilla_layers(x, previous)
        if self.chain is None:
            return x, source.scores
        chained = self.chain(source)
        for index, scores in enumerate(chained, start=self.vanilla):
            x, _ = self.blocks[index](x, scores)
        return x, chained[-1]

    def vanilla_layers(self, x: Tensor, previous: Tensor | None) -> tuple[Tensor, Scores]:
        """The stage as far as its last vanilla layer; arguments as of `forward`.

        Returns:
            Tokens [B, N, D], and that layer's scores.
        """
        x = self.patch_embed(x)
        if self.class_token is not None:
            x = torch.cat((self.class_token.expand(x.shape[0], -1, -1), x), dim=1)
        lead = None
        if self.residual is not None and previous is not None:
            lead = self.residual(previous)
        x, source = self.blocks[0](x, lead)
        for index in range(1, self.vanilla):
            x, source = self.blocks[index](x, None)
        return x, source


class FoldedLaViT(nn.Module):
    """A LaViT for inference: uint8 pictures [B, H, W, C] -> logits [B, K].

    Args:
        config: the architecture.
        normalise: mean and standard deviation, until they are folded away.
        stages: the four stages.
        last_norm: the LayerNorm before the classifier.
        head: the classifier.
    """

    def __init__(
        self,
        config: LaViTConfig,
        normalise: PixelNormalisation,
        stages: list[FoldedStage],
        last_norm: nn.LayerNorm,
        head: nn.Linear,
    ) -> None:
        super().__init__()
        self.config = config
        self.normalise: nn.Module | None = normalise
        self.stages = nn.ModuleList(stages)
        self.last_norm = last_norm
        self.head = head

    def layers(self) -> Iterator[tuple[int, int, FoldedBlock]]:
        """Every block with its 0-based stage and layer, in order."""
        for index in range(STAGES):
            for layer, block in enumerate(self.stage(index).blocks):
                yield index, layer, cast("FoldedBlock", block)

    def stage(self, index: int) -> FoldedStage:
        """The 0-based stage `index`."""
        return cast("FoldedStage", self.stages[index])

    def forward(self, images: Tensor) -> Tensor:
        """Classify: uint8 [B, H, W, C] -> logits [B, K]."""
        x = images if self.normalise is None else self.normalise(images)
        last: Tensor | None = None
        for index in range(STAGES):
            x, last = self.stages[index](x, last)
        x = self.last_norm(x)
        pooled = x[:, 0] if self.config.class_token else x.mean(dim=1)  # [B, N, D] -> [B, D]
        return self.head(pooled)
