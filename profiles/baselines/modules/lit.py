"""LIT: a reference module of this project's own, for counting and timing.

Z. Pan, B. Zhuang, H. He, J. Liu, J. Cai, "Less is More: Pay Less Attention in Vision Transformers",
AAAI 2022, arXiv:2105.14217; sizes as in the authors' repository ziplab/LIT. B batch, N tokens on
an (h, w) grid, D channels, H heads, d = D / H.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lavit_deploy.profiles.baselines.lit import LitConfig
from lavit_deploy.profiles.baselines.modules.vit import Mlp


class PatchEmbed(nn.Module):
    """Convolution and LayerNorm: [B, 3, H, W] -> [B, N, D]."""

    def __init__(self, config: LitConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.dim, config.patch, stride=config.patch)
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.proj(images).flatten(2).transpose(1, 2))  # [B, D, h, w] -> [B, N, D]


class DeformableMerging(nn.Module):
    """Four neighbours, each displaced by a learned offset, become one token of twice the channels.

    A deformable convolution of kernel and stride 2, sampled bilinearly: [B, N, D] -> [B, N/4, 2D].

    Args:
        dim: D.
        grid: (h, w) of the tokens that come in.
    """

    taps: Tensor

    def __init__(self, dim: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.offsets = nn.Conv2d(dim, 8, 2, stride=2)
        self.proj = nn.Linear(4 * dim, 2 * dim)
        self.norm = nn.BatchNorm2d(2 * dim)
        self.act = nn.GELU()
        height, width = grid
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        # Positions in pixels, (x, y): [h, w, 2] -> [h/2, 2, w/2, 2, 2] -> [4, h/2, w/2, 2]
        taps = torch.stack((columns, rows), dim=-1).float()
        taps = taps.reshape(height // 2, 2, width // 2, 2, 2).permute(1, 3, 0, 2, 4)
        self.register_buffer("taps", taps.flatten(0, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, dim = x.shape
        height, width = self.grid
        maps = x.transpose(1, 2).reshape(batch, dim, height, width)  # [B, N, D] -> [B, D, h, w]
        # [B, 8, h/2, w/2] -> [B, 4, 2, h/2, w/2] -> [B, 4, h/2, w/2, 2]
        shifts = self.offsets(maps).reshape(batch, 4, 2, height // 2, width // 2)
        shifts = shifts.permute(0, 1, 3, 4, 2)
        size = shifts.new_tensor((width, height))
        where = 2.0 * (self.taps + shifts + 0.5) / size - 1.0
        # [B, 4, h/2, w/2, 2] -> [B, 4 * h/2, w/2, 2]: one sampling for all four
        sampled = nn.functional.grid_sample(maps, where.flatten(1, 2), align_corners=False)
        # [B, D, 4 * h/2, w/2] -> [B, D, 4, h/2, w/2] -> [B, h/2, w/2, 4, D] -> [B, h/2, w/2, 4D]
        sampled = sampled.reshape(batch, dim, 4, height // 2, width // 2)
        taken = sampled.permute(0, 3, 4, 2, 1).flatten(3)
        merged = self.proj(taken).permute(0, 3, 1, 2)  # [B, h/2, w/2, 2D] -> [B, 2D, h/2, w/2]
        return self.act(self.norm(merged)).flatten(2).transpose(1, 2)  # [B, N/4, 2D]


class Attention(nn.Module):
    """Attention over the whole grid with a bias for every relative position.

    Args:
        dim: D.
        heads: H.
        grid: (h, w).
        fused: whether to use PyTorch's fused attention.
    """

    places: Tensor

    def __init__(self, dim: int, heads: int, grid: tuple[int, int], *, fused: bool) -> None:
        super().__init__()
        self.heads = heads
        self.fused = fused
        height, width = grid
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.bias = nn.Parameter(torch.zeros((2 * height - 1) * (2 * width - 1), heads))
        rows, columns = (
            axis.flatten()
            for axis in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        )
        down = rows[:, None] - rows[None, :] + height - 1  # [N, N]
        across = columns[:, None] - columns[None, :] + width - 1
        self.register_buffer("places", down * (2 * width - 1) + across, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        # [B, N, 3D] -> [B, N, 3, H, d] -> [3, B, H, N, d]
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.bias[self.places].permute(2, 0, 1)  # [N, N, H] -> [H, N, N]
        if self.fused:
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
        else:
            scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1) + bias  # [B, H, N, N]
            mixed = scores.softmax(dim=-1) @ v
        return self.proj(mixed.transpose(1, 2).flatten(2))  # [B, H, N, d] -> [B, N, D]


class Block(nn.Module):
    """Pre-norm layer: attention, where the stage has it, and an MLP."""

    def __init__(self, dim: int, attention: Attention | None, mlp_ratio: int) -> None:
        super().__init__()
        self.attn = attention
        self.norm1 = None if attention is None else nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        if self.attn is not None and self.norm1 is not None:
            x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Stage(nn.Module):
    """Merging, except in the first stage, then the layers."""

    def __init__(self, config: LitConfig, stage: int, *, fused: bool) -> None:
        super().__init__()
        dim, heads = config.dim * 2**stage, config.heads[stage]
        side = config.patch * 2**stage
        height, width = (length // side for length in config.image_size)
        self.merge = (
            DeformableMerging(dim // 2, (2 * height, 2 * width)) if stage else nn.Identity()
        )
        self.blocks = nn.Sequential(
            *(
                Block(
                    dim,
                    Attention(dim, heads, (height, width), fused=fused)
                    if config.attention[stage]
                    else None,
                    config.mlp_ratio,
                )
                for _ in range(config.depths[stage])
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.merge(x))


class Lit(nn.Module):
    """Normalised images [B, 3, H, W] -> logits [B, K].

    Args:
        config: sizes.
        fused: whether to use PyTorch's fused attention.
    """

    def __init__(self, config: LitConfig, *, fused: bool) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(config)
        self.stages = nn.Sequential(
            *(Stage(config, stage, fused=fused) for stage in range(len(config.depths)))
        )
        dim = config.dim * 2 ** (len(config.depths) - 1)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, config.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.stages(self.patch_embed(images))).mean(dim=1))
