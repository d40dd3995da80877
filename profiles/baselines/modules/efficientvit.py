"""EfficientViT, B series: a reference module of this project's own, for counting and timing.

H. Cai, J. Li, M. Hu, C. Gan, S. Han, "EfficientViT: Multi-Scale Linear Attention for
High-Resolution Dense Prediction", ICCV 2023, arXiv:2205.14756; sizes as in the authors' repository
mit-han-lab/efficientvit. B batch, C channels, (h, w) the grid, d channels of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lavit_deploy.profiles.baselines.efficientvit import EfficientViTConfig

_EPSILON = 1e-15


def _conv(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, *,
    norm: bool = True, act: bool = True,
) -> nn.Sequential:  # fmt: skip
    """Convolution, norm, activation; without a norm it has a bias."""
    layers: list[nn.Module] = [
        nn.Conv2d(
            inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=not norm
        )
    ]
    if norm:
        layers.append(nn.BatchNorm2d(outputs))
    if act:
        layers.append(nn.Hardswish())
    return nn.Sequential(*layers)


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def _separable(dim: int) -> nn.Module:
    """Depthwise, then pointwise convolution, with a residual."""
    return Residual(nn.Sequential(_conv(dim, dim, 3, groups=dim), _conv(dim, dim, act=False)))


def _inverted(
    inputs: int, outputs: int, expand: int, stride: int, *, few_norms: bool
) -> nn.Sequential:
    """Inverted bottleneck; with `few_norms` only the last convolution is normalised."""
    hidden = inputs * expand
    return nn.Sequential(
        _conv(inputs, hidden, norm=not few_norms),
        _conv(hidden, hidden, 3, stride, groups=hidden, norm=not few_norms),
        _conv(hidden, outputs, act=False),
    )


class LinearAttention(nn.Module):
    """ReLU attention, linear in the tokens, over two scales of queries, keys and values.

    Args:
        dim: C.
        head_dim: d.
    """

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        wide, heads = 3 * dim, dim // head_dim
        self.qkv = nn.Conv2d(dim, wide, 1, bias=False)
        self.aggregate = nn.Sequential(
            nn.Conv2d(wide, wide, 5, padding=2, groups=wide, bias=False),
            nn.Conv2d(wide, wide, 1, groups=3 * heads, bias=False),
        )
        self.proj = _conv(2 * dim, dim, act=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        qkv = self.qkv(x)  # [B, 3C, h, w]
        qkv = torch.cat((qkv, self.aggregate(qkv)), dim=1)
        # [B, 6C, h, w] -> [B, 2C/d, 3d, N]
        qkv = qkv.reshape(x.shape[0], -1, 3 * self.head_dim, height * width)
        q, k, v = qkv.chunk(3, dim=2)  # [B, 2C/d, d, N] each
        q, k = q.relu(), k.relu()
        if height * width > self.head_dim:
            v = nn.functional.pad(v, (0, 0, 0, 1), value=1.0)  # a row that sums the weights
            mixed = (v @ k.transpose(-1, -2)) @ q  # [B, 2C/d, d + 1, N]
            mixed = mixed[:, :, :-1] / (mixed[:, :, -1:] + _EPSILON)
        else:  # fewer tokens than channels of a head: their weights are cheaper
            weights = k.transpose(-1, -2) @ q  # [B, 2C/d, N, N]
            mixed = v @ (weights / (weights.sum(dim=2, keepdim=True) + _EPSILON))
        # [B, 2C/d, d, N] -> [B, 2C, h, w]
        return self.proj(mixed.reshape(x.shape[0], -1, height, width))


class Block(nn.Module):
    """Attention, then an inverted bottleneck, each with a residual."""

    def __init__(self, dim: int, config: EfficientViTConfig) -> None:
        super().__init__()
        self.context = LinearAttention(dim, config.head_dim)
        self.local = _inverted(dim, dim, config.expand, 1, few_norms=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.context(x)
        return x + self.local(x)


class Stage(nn.Module):
    """A strided bottleneck, then bottlenecks (the first two stages) or blocks with attention."""

    def __init__(self, config: EfficientViTConfig, stage: int) -> None:
        super().__init__()
        before, dim = config.dims[stage], config.dims[stage + 1]
        depth, expand, attention = config.depths[stage + 1], config.expand, stage >= 2
        blocks: list[nn.Module] = [_inverted(before, dim, expand, 2, few_norms=attention)]
        if attention:
            blocks.extend(Block(dim, config) for _ in range(depth))
        else:
            blocks.extend(
                Residual(_inverted(dim, dim, expand, 1, few_norms=False)) for _ in range(depth - 1)
            )
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class EfficientViT(nn.Module):
    """Normalised images [B, 3, H, W] -> logits [B, K].

    Args:
        config: sizes.
    """

    def __init__(self, config: EfficientViTConfig) -> None:
        super().__init__()
        first = config.dims[0]
        self.stem = nn.Sequential(
            _conv(3, first, 3, 2), *(_separable(first) for _ in range(config.depths[0]))
        )
        self.stages = nn.Sequential(*(Stage(config, stage) for stage in range(4)))
        wide, wider = config.head
        self.head = nn.Sequential(
            _conv(config.dims[-1], wide),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(wide, wider, bias=False),
            nn.LayerNorm(wider),
            nn.Hardswish(),
            nn.Linear(wider, config.num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(images)))
