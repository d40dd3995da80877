"""Plain vision transformers with hooks for what DeepViT, DynamicViT, EViT and PPT change in them.

Reference modules of this project's own: no library that this project depends on has these models.
ViT: Dosovitskiy et al., arXiv:2010.11929; DeiT: Touvron et al., arXiv:2012.12877; DeepViT: Zhou et
al., arXiv:2103.11886. They are made to be counted and timed: initialisation is PyTorch's.

B batch, N tokens with the class token, D channels, H heads, d = D / H.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from lavit_deploy.profiles.baselines.modules.token_reduction import (
    DynamicViTReduction,
    EViTReduction,
    PptReduction,
)
from lavit_deploy.profiles.baselines.vit import ViTConfig


class Attended(NamedTuple):
    """What an attention layer gives.

    Attributes:
        tokens: [B, N, D].
        keys: [B, H, N, d].
        values: [B, H, N, d].
        weights: attention after the softmax [B, H, N, N]; None where fused attention hid it.
    """

    tokens: Tensor
    keys: Tensor
    values: Tensor
    weights: Tensor | None


class Attention(nn.Module):
    """Multi-head attention, fused unless its weights are asked for.

    Args:
        dim: D.
        heads: H.
        fused: whether to use PyTorch's fused attention.
    """

    def __init__(self, dim: int, heads: int, *, fused: bool) -> None:
        super().__init__()
        self.heads = heads
        self.fused = fused
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, bias: Tensor | None = None, *, weights: bool = False) -> Attended:
        """Attend.

        Args:
            x: normalised tokens [B, N, D].
            bias: added to the scores, broadcast to [B, H, N, N]; None for none.
            weights: whether the weights are needed.
        """
        batch, tokens, dim = x.shape
        # [B, N, 3D] -> [B, N, 3, H, d] -> [3, B, H, N, d]
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attention = None
        if self.fused and not weights:
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        else:
            scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)  # [B, H, N, N]
            attention = self.mixed((scores if bias is None else scores + bias).softmax(dim=-1))
            mixed = attention @ v  # [B, H, N, d]
        # [B, H, N, d] -> [B, N, H, d] -> [B, N, D]
        return Attended(self.proj(mixed.transpose(1, 2).flatten(2)), k, v, attention)

    def mixed(self, weights: Tensor) -> Tensor:
        """The weights as they are used: unchanged here."""
        return weights


class ReAttention(Attention):
    """DeepViT's attention: maps are mixed across heads and normalised after the softmax."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim, heads, fused=False)
        self.mix = nn.Conv2d(heads, heads, 1)
        self.mix_norm = nn.BatchNorm2d(heads)

    def mixed(self, weights: Tensor) -> Tensor:
        return self.mix_norm(self.mix(weights)) / math.sqrt(self.qkv.in_features // self.heads)


class Mlp(nn.Module):
    """Linear, GELU, Linear: [B, N, D] -> [B, N, D]."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, ratio * dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(ratio * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, config: ViTConfig, layer: int, *, fused: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, eps=1e-6)
        self.attn = (
            ReAttention(config.dim, config.heads)
            if layer >= config.depth - config.mixed_heads
            else Attention(config.dim, config.heads, fused=fused)
        )
        self.norm2 = nn.LayerNorm(config.dim, eps=1e-6)
        self.mlp = Mlp(config.dim, config.mlp_ratio)


class PatchEmbed(nn.Module):
    """A strided convolution: [B, 3, H, W] -> [B, N - 1, D]."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.dim, config.patch, stride=config.patch)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)  # [B, D, h, w] -> [B, N - 1, D]


class ConvolutionalPatchEmbed(nn.Module):
    """DeepViT's: two convolutions at half the resolution first: [B, 3, H, W] -> [B, N - 1, D]."""

    def __init__(self, config: ViTConfig, stem: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(),
            nn.Conv2d(stem, stem, 3, padding=1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(),
        )
        half = config.patch // 2
        self.proj = nn.Conv2d(stem, config.dim, half, stride=half)

    def forward(self, images: Tensor) -> Tensor:
        # [B, D, h, w] -> [B, N - 1, D]
        return self.proj(self.stem(images)).flatten(2).transpose(1, 2)


class PlainViT(nn.Module):
    """A ViT with a class token: normalised images [B, 3, H, W] -> logits [B, K].

    Args:
        config: sizes, and how tokens are removed.
        fused: whether to use PyTorch's fused attention where no weights are needed.
    """

    def __init__(self, config: ViTConfig, *, fused: bool) -> None:
        super().__init__()
        self.config = config
        self.patch_embed: nn.Module = (
            PatchEmbed(config)
            if config.stem is None
            else ConvolutionalPatchEmbed(config, config.stem)
        )
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.positions = nn.Parameter(torch.zeros(1, config.patches + 1, config.dim))
        self.blocks = nn.ModuleList(
            Block(config, layer, fused=fused) for layer in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.head = nn.Linear(config.dim, config.num_classes)

    def embedded(self, images: Tensor) -> Tensor:
        """Class token and patches with their positions, [B, N, D]."""
        x = self.patch_embed(images)
        return torch.cat((self.class_token.expand(x.shape[0], -1, -1), x), dim=1) + self.positions

    def layers(self) -> Iterator[tuple[Block, int | None]]:
        """Every layer, and the how manieth that removes tokens it is, from 0."""
        for layer, block in enumerate(self.blocks):
            removing = layer in self.config.reduced_at
            times = self.config.reduced_at.index(layer) if removing else None
            yield cast("Block", block), times

    def classified(self, x: Tensor) -> Tensor:
        """Logits [B, K] from the last tokens [B, N, D]."""
        return self.head(self.norm(x)[:, 0])

    def forward(self, images: Tensor) -> Tensor:
        x = self.embedded(images)
        for block, _ in self.layers():
            x = x + block.attn(block.norm1(x)).tokens
            x = x + block.mlp(block.norm2(x))
        return self.classified(x)


class DynamicViT(PlainViT):
    """DynamicViT: before some layers a small network scores the tokens, the best ones stay."""

    def __init__(self, config: ViTConfig, *, fused: bool) -> None:
        super().__init__(config, fused=fused)
        self.reductions = nn.ModuleList(DynamicViTReduction(config.dim) for _ in config.reduced_at)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embedded(images)
        for block, times in self.layers():
            if times is not None:
                kept = int(self.config.patches * self.config.keep ** (times + 1))
                x = self.reductions[times](x, kept)
            x = x + block.attn(block.norm1(x)).tokens
            x = x + block.mlp(block.norm2(x))
        return self.classified(x)


class EViT(PlainViT):
    """EViT: tokens that the class token attends to least become one, between attention and MLP."""

    def __init__(self, config: ViTConfig, *, fused: bool) -> None:
        super().__init__(config, fused=fused)
        self.reductions = nn.ModuleList(EViTReduction(config.keep) for _ in config.reduced_at)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embedded(images)
        for block, times in self.layers():
            attended = block.attn(block.norm1(x), weights=times is not None)
            x = x + attended.tokens
            if times is not None:
                x = self.reductions[times](x, attended.weights)
            x = x + block.mlp(block.norm2(x))
        return self.classified(x)


class Ppt(PlainViT):
    """PPT: each image drops its least significant tokens, or merges similar ones where all matter.

    A token stands for `size` tokens of the beginning, and is attended to in that proportion.
    """

    def __init__(self, config: ViTConfig, *, fused: bool) -> None:
        super().__init__(config, fused=fused)
        self.reductions = nn.ModuleList(PptReduction(config.removed) for _ in config.reduced_at)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embedded(images)
        sizes = x.new_ones(*x.shape[:2], 1)
        bias: Tensor | None = None  # every token still stands for itself
        for block, times in self.layers():
            attended = block.attn(block.norm1(x), bias, weights=times is not None)
            x = x + attended.tokens
            if times is not None:
                x, sizes = self.reductions[times](
                    x, sizes, attended.keys, attended.values, attended.weights
                )
                bias = sizes.log()[:, None, None, :, 0]  # [B, N, 1] -> [B, 1, 1, N]
            x = x + block.mlp(block.norm2(x))
        return self.classified(x)
