"""LaViT in PyTorch, read top to bottom.

Paper: S. Zhang, H. Liu, S. Lin, K. He, "You Only Need Less Attention at Each Stage in Vision
Transformers", CVPR 2024, arXiv:2406.00427. The backbone is PVT v1's (W. Wang et al., ICCV 2021,
arXiv:2102.12122). Where the paper is silent or contradicts itself, `docs/model.md` says what this
file does and why.

Letters: B batch, N query tokens on an (h, w) grid, M key tokens, D channels, H heads, d = D / H,
r spatial-reduction ratio. "Scores" are always pre-softmax.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lavit_deploy.model.config import STAGES, LaViTConfig

INIT_STD = 0.02
"""Standard deviation of every truncated-normal initialisation, as in PVT and DeiT."""

LA_INIT_NOISE = 1e-3
"""Noise around the identity that Theta and Psi start from: an LA layer begins as plain reuse."""


class LayerScores(NamedTuple):
    """Pre-softmax scores of one layer.

    Attributes:
        stage: 0-based stage.
        layer: 0-based layer within the stage.
        less_attention: whether the layer transformed its scores (Eq. 5) or computed them (Eq. 4).
        scores: [B, H, N, M].
    """

    stage: int
    layer: int
    less_attention: bool
    scores: Tensor


class LaViTOutput(NamedTuple):
    """What `LaViT.forward_with_scores` returns: logits [B, K] and the scores of every layer."""

    logits: Tensor
    scores: list[LayerScores]


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., 2016): drops a residual branch for whole samples."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0.0:
            return x
        keep = 1.0 - self.probability
        mask = x.new_empty(x.shape[0], *(1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * mask / keep


class PatchEmbed(nn.Module):
    """Non-overlapping convolution, k = s = patch, then LayerNorm: [B, C, h*p, w*p] -> [B, N, D]."""

    def __init__(self, in_channels: int, dim: int, patch: int, eps: float) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel_size=patch, stride=patch)
        self.norm = nn.LayerNorm(dim, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x).flatten(2).transpose(1, 2)  # [B, D, h, w] -> [B, D, N] -> [B, N, D]
        return self.norm(x)


class SpatialReduction(nn.Module):
    """PVT's reduction of keys and values: convolution k = s = r, then LayerNorm."""

    def __init__(self, dim: int, ratio: int, grid: tuple[int, int], eps: float) -> None:
        super().__init__()
        self.grid = grid
        self.conv = nn.Conv2d(dim, dim, kernel_size=ratio, stride=ratio)
        self.norm = nn.LayerNorm(dim, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, dim = x.shape
        height, width = self.grid
        x = x.transpose(1, 2).reshape(batch, dim, height, width)  # [B, N, D] -> [B, D, h, w]
        x = self.conv(x).flatten(2).transpose(1, 2)  # [B, D, h/r, w/r] -> [B, D, M] -> [B, M, D]
        return self.norm(x)


def _reduction(config: LaViTConfig, stage: int) -> nn.Module:
    ratio = config.sr_ratios[stage]
    if ratio == 1:
        return nn.Identity()
    return SpatialReduction(config.dims[stage], ratio, config.grid(stage), config.norm_eps)


class VanillaAttention(nn.Module):
    """Spatial-reduction attention that also gives its scores (Eq. 4, and Eq. 7 when led in)."""

    def __init__(self, config: LaViTConfig, stage: int) -> None:
        super().__init__()
        dim = config.dims[stage]
        self.heads = config.heads[stage]
        self.scale = 1.0 / math.sqrt(config.head_dim(stage))
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.reduce = _reduction(config, stage)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            x: normalised tokens [B, N, D].
            residual: downsampled scores of the previous stage [B, H, N, M], or None.

        Returns:
            New features [B, N, D], and the pre-softmax scores [B, H, N, M].
        """
        batch, tokens, dim = x.shape
        head_dim = dim // self.heads
        # [B, N, D] -> [B, N, H, d] -> [B, H, N, d]
        q = self.q(x).reshape(batch, tokens, self.heads, head_dim).transpose(1, 2)
        # [B, M, 2D] -> [B, M, 2, H, d] -> [2, B, H, M, d]
        kv = self.kv(self.reduce(x)).reshape(batch, -1, 2, self.heads, head_dim)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        # Scores are kept wide in every precision: stored, transformed and exponentiated.
        scores = widened((q * self.scale) @ k.transpose(-2, -1))  # [B, H, N, M], Eq. 4
        if residual is not None:
            scores = scores + residual  # Eq. 7
        return _mix(scores, v, self.proj), scores


class LessAttention(nn.Module):
    """A layer that transforms the previous layer's scores instead of computing its own (Eq. 5).

    A_l = Psi(Theta(A_{l-1})^T)^T: Theta acts along keys, Psi along queries, one pair per layer,
    shared by all heads. The layer has values but neither queries nor keys.
    """

    def __init__(self, config: LaViTConfig, stage: int) -> None:
        super().__init__()
        dim = config.dims[stage]
        self.heads = config.heads[stage]
        self.theta = nn.Linear(config.keys(stage), config.keys(stage))
        self.psi = nn.Linear(config.tokens(stage), config.tokens(stage))
        self.v = nn.Linear(dim, dim)
        self.reduce = _reduction(config, stage)
        self.proj = nn.Linear(dim, dim)

    def transform(self, scores: Tensor) -> Tensor:
        """Eq. 5's first line: scores of the previous layer -> scores of this one, [B, H, N, M].

        Scores grow along a chain of LA layers, so under autocast the two maps run in float32.
        """
        device = scores.device.type
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return self._transform(widened(scores))
        return self._transform(scores)

    def _transform(self, scores: Tensor) -> Tensor:
        transposed = self.theta(scores).transpose(-2, -1)  # [B, H, N, M] -> [B, H, M, N]
        return self.psi(transposed).transpose(-2, -1)  # [B, H, M, N] -> [B, H, N, M]

    def forward(self, x: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Mix values by transformed scores.

        Args:
            x: normalised tokens [B, N, D].
            scores: pre-softmax scores of the layer before [B, H, N, M].

        Returns:
            New features [B, N, D], and this layer's pre-softmax scores [B, H, N, M].
        """
        batch, _, dim = x.shape
        scores = self.transform(scores)
        # [B, M, D] -> [B, M, H, d] -> [B, H, M, d]
        v = self.v(self.reduce(x)).reshape(batch, -1, self.heads, dim // self.heads)
        return _mix(scores, v.transpose(1, 2), self.proj), scores


def widened(x: Tensor) -> Tensor:
    """Half-precision values as float32; float32 and float64 as they are."""
    return x.float() if x.dtype in {torch.float16, torch.bfloat16} else x


def _mix(scores: Tensor, v: Tensor, proj: nn.Linear) -> Tensor:
    """softmax(scores) V, heads joined, projected: [B, H, N, M], [B, H, M, d] -> [B, N, D]."""
    attention = widened(scores).softmax(dim=-1).to(v.dtype)
    mixed = (attention @ v).transpose(1, 2)  # [B, H, N, d] -> [B, N, H, d]
    return proj(mixed.flatten(2))  # [B, N, H, d] -> [B, N, D]


class AttentionResidual(nn.Module):
    """Downsampled scores of the previous stage (Eq. 6), scaled by LayerScale (Eq. 7).

    All stages share one key grid, so only queries are downsampled. The norm is BatchNorm, which
    folds away at export. No convolution has a bias: BatchNorm's shift already provides every
    constant that one could add.
    """

    def __init__(self, config: LaViTConfig, stage: int) -> None:
        super().__init__()
        before, heads, patch = (
            config.heads[stage - 1],
            config.heads[stage],
            config.patch_sizes[stage],
        )
        self.grid = config.grid(stage - 1)
        self.class_token = config.has_class_token(stage)
        self.dwconv = nn.Conv2d(before, before, patch, stride=patch, groups=before, bias=False)
        self.norm = nn.BatchNorm2d(before)
        self.pointwise = nn.Conv2d(before, heads, 1, bias=False)
        self.scale = nn.Parameter(torch.full((heads,), config.residual_scale_init))

    def forward(self, scores: Tensor) -> Tensor:
        """[B, H', N', M] of the previous stage -> [B, H, N, M] of this one."""
        batch, heads, _, keys = scores.shape
        height, width = self.grid
        # [B, H', N', M] -> [B, M, H', N'] -> [B*M, H', h', w']: one picture per key
        maps = scores.permute(0, 3, 1, 2).reshape(batch * keys, heads, height, width)
        maps = self.pointwise(self.norm(self.dwconv(maps)))  # [B*M, H, h, w]
        maps = maps * self.scale[:, None, None]
        # [B*M, H, h, w] -> [B, M, H, N] -> [B, H, N, M]
        maps = maps.reshape(batch, keys, self.scale.shape[0], -1).permute(0, 2, 3, 1)
        if self.class_token:  # the token has no scores before: a zero row and column
            maps = nn.functional.pad(maps, (1, 0, 1, 0))
        return maps


class Mlp(nn.Module):
    """Linear, GELU, Linear: [B, N, D] -> [B, N, D]."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, dim * ratio)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(dim * ratio, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer layer; its attention is vanilla or less-attention."""

    def __init__(self, config: LaViTConfig, stage: int, layer: int, drop_path: float) -> None:
        super().__init__()
        dim = config.dims[stage]
        self.less_attention = config.is_less_attention(stage, layer)
        self.norm1 = nn.LayerNorm(dim, eps=config.norm_eps)
        attention = LessAttention if self.less_attention else VanillaAttention
        self.attn = attention(config, stage)
        self.norm2 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.mlp = Mlp(dim, config.mlp_ratios[stage])
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, scores: Tensor | None) -> tuple[Tensor, Tensor]:
        """One layer.

        Args:
            x: tokens [B, N, D].
            scores: for an LA layer the scores to transform, for a VA layer the residual to add.

        Returns:
            Tokens [B, N, D] and this layer's pre-softmax scores [B, H, N, M].
        """
        mixed, scores = self.attn(self.norm1(x), scores)
        x = x + self.drop_path(mixed)
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x, scores


class Stage(nn.Module):
    """Patch embedding, attention residual, then the layers of one stage."""

    def __init__(self, config: LaViTConfig, stage: int, drop_paths: list[float]) -> None:
        super().__init__()
        in_channels = config.in_channels if stage == 0 else config.dims[stage - 1]
        self.patch_embed = PatchEmbed(
            in_channels, config.dims[stage], config.patch_sizes[stage], config.norm_eps
        )
        has_residual = config.attention_residual and stage > 0
        self.residual = AttentionResidual(config, stage) if has_residual else None
        self.class_token = (
            nn.Parameter(torch.zeros(1, 1, config.dims[stage]))
            if config.has_class_token(stage)
            else None
        )
        self.blocks = nn.ModuleList(
            Block(config, stage, layer, drop_path) for layer, drop_path in enumerate(drop_paths)
        )

    def forward(self, x: Tensor, previous: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """One stage.

        Args:
            x: features [B, C, h*p, w*p].
            previous: last scores of the previous stage [B, H', N', M], None in the first.

        Returns:
            Tokens [B, N, D] and the scores of every layer [B, H, N, M].
        """
        x = self.patch_embed(x)
        if self.class_token is not None:
            x = torch.cat((self.class_token.expand(x.shape[0], -1, -1), x), dim=1)
        lead = None
        if self.residual is not None and previous is not None:
            lead = self.residual(previous)
        scores: list[Tensor] = []
        for block in self.blocks:
            x, lead = block(x, lead if block.less_attention or not scores else None)
            scores.append(lead)
        return x, scores


class LaViT(nn.Module):
    """Less-Attention Vision Transformer.

    Args:
        config: the architecture.
        drop_path: stochastic depth of the last layer; it grows linearly from 0 at the first.
    """

    def __init__(self, config: LaViTConfig, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.config = config
        layers = sum(config.depths)
        rates = [drop_path * index / max(layers - 1, 1) for index in range(layers)]
        stages = []
        for stage, depth in enumerate(config.depths):
            stages.append(Stage(config, stage, rates[:depth]))
            rates = rates[depth:]
        self.stages = nn.ModuleList(stages)
        self.norm = nn.LayerNorm(config.dims[-1], eps=config.norm_eps)
        self.head = nn.Linear(config.dims[-1], config.num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """PVT's initialisation, and the identity for the LA maps."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INIT_STD)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, LessAttention):
                for linear in (module.theta, module.psi):
                    nn.init.normal_(linear.weight, std=LA_INIT_NOISE)
                    with torch.no_grad():
                        linear.weight.diagonal().add_(1.0)
            elif isinstance(module, Stage) and module.class_token is not None:
                nn.init.trunc_normal_(module.class_token, std=INIT_STD)

    def forward(self, images: Tensor) -> Tensor:
        """Classify: normalised images [B, C, H, W] -> logits [B, K]."""
        return self.forward_with_scores(images).logits

    def forward_with_scores(self, images: Tensor) -> LaViTOutput:
        """Classify, and give the pre-softmax scores of every layer, first to last.

        Args:
            images: normalised images [B, C, H, W] of `config.image_size`.
        """
        x, last = images, None
        all_scores: list[LayerScores] = []
        for index, stage in enumerate(self.stages):
            x, scores = stage(x, last)
            last = scores[-1]
            all_scores += [
                LayerScores(index, layer, self.config.is_less_attention(index, layer), value)
                for layer, value in enumerate(scores)
            ]
            if index < STAGES - 1:
                height, width = self.config.grid(index)
                # [B, N, D] -> [B, D, N] -> [B, D, h, w]
                x = x.transpose(1, 2).reshape(x.shape[0], -1, height, width)
        x = self.norm(x)
        pooled = x[:, 0] if self.config.class_token else x.mean(dim=1)  # [B, N, D] -> [B, D]
        return LaViTOutput(self.head(pooled), all_scores)
