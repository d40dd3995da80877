"""How DynamicViT, EViT and PPT choose the tokens that go on.

DynamicViT: Rao et al., arXiv:2106.02034. EViT: Liang et al., arXiv:2202.07800. PPT: Wu et al.,
arXiv:2310.01812; its pooling is ToMe's matching (Bolya et al., arXiv:2210.09461). The class token
comes first and always stays. B batch, N tokens, D channels, H heads, d = D / H.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

PPT_THRESHOLD = 7e-5
"""Variance of an image's significance scores above which it drops tokens (the authors' command)."""


class DynamicViTReduction(nn.Module):
    """Score tokens by a network that sees each token and the mean of all, and keep the best."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU())
        self.outer = nn.Sequential(
            nn.Linear(dim, dim // 2),
            nn.GELU(),
            nn.Linear(dim // 2, dim // 4),
            nn.GELU(),
            nn.Linear(dim // 4, 2),
            nn.LogSoftmax(dim=-1),
        )

    def forward(self, x: Tensor, kept: int) -> Tensor:
        """[B, N, D] -> [B, kept + 1, D]."""
        local, common = self.inner(x[:, 1:]).chunk(2, dim=-1)  # [B, N - 1, D/2] each
        common = common.mean(dim=1, keepdim=True).expand_as(local)
        scores = self.outer(torch.cat((local, common), dim=-1))[..., 0]  # [B, N - 1]
        best = scores.argsort(dim=1, descending=True)[:, :kept]
        return torch.cat((x[:, :1], _taken(x[:, 1:], best)), dim=1)


class EViTReduction(nn.Module):
    """Keep the tokens that the class token attends to, and sum up the others in one.

    Args:
        keep: share of the tokens to keep.
    """

    def __init__(self, keep: float) -> None:
        super().__init__()
        self.keep = keep

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """[B, N, D] and attention [B, H, N, N] -> [B, kept + 2, D]."""
        tokens = x.shape[1] - 1
        kept = math.ceil(self.keep * tokens)
        if kept == tokens:
            return x
        attention = weights[:, :, 0, 1:].mean(dim=1)  # [B, N - 1]
        order = attention.argsort(dim=1, descending=True)
        best, rest = order[:, :kept], order[:, kept:]
        share = attention.gather(1, rest).unsqueeze(-1)  # [B, N - 1 - kept, 1]
        fused = (_taken(x[:, 1:], rest) * share).sum(dim=1, keepdim=True)
        return torch.cat((x[:, :1], _taken(x[:, 1:], best), fused), dim=1)


class PptReduction(nn.Module):
    """Drop or merge tokens, decided for each image by the variance of its significance scores.

    Args:
        removed: tokens to remove.
    """

    def __init__(self, removed: int) -> None:
        super().__init__()
        self.removed = removed

    def forward(
        self, x: Tensor, sizes: Tensor, keys: Tensor, values: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Remove tokens.

        Args:
            x: [B, N, D].
            sizes: number of first tokens that each stands for [B, N, 1].
            keys: [B, H, N, d].
            values: [B, H, N, d].
            weights: attention [B, H, N, N].

        Returns:
            Tokens [B, N - removed, D] and their sizes.
        """
        removed = min(self.removed, (x.shape[1] - 1) // 2)
        scores = _significance(values, weights)
        dropping = scores.var(dim=1) >= PPT_THRESHOLD  # [B]
        left = x.shape[1] - removed
        tokens = x.new_empty(x.shape[0], left, x.shape[2])
        new_sizes = sizes.new_empty(x.shape[0], left, 1)
        merging = (~dropping).nonzero().squeeze(1)
        if merging.numel():
            match = Matching(keys[merging].mean(dim=1), removed)
            new_sizes[merging] = match.summed(sizes[merging])
            merged = match.summed(x[merging] * sizes[merging])
            tokens[merging] = merged / new_sizes[merging]
        dropping = dropping.nonzero().squeeze(1)
        if dropping.numel():
            order = scores[dropping].argsort(dim=1, descending=True)
            stay = order[:, : left - 1] + 1  # [B', N - removed - 1], after the class token
            stay = torch.cat((stay.new_zeros(len(stay), 1), stay), dim=1)
            tokens[dropping] = _taken(x[dropping], stay)
            new_sizes[dropping] = _taken(sizes[dropping], stay)
        return tokens, new_sizes


class Matching:
    """ToMe's bipartite matching: every other token finds the most similar one between.

    Args:
        keys: mean over heads [B, N, d].
        removed: pairs to merge, the most similar ones; the class token never is.
    """

    def __init__(self, keys: Tensor, removed: int) -> None:
        keys = keys / keys.norm(dim=-1, keepdim=True)
        similarity = keys[:, ::2] @ keys[:, 1::2].transpose(-1, -2)  # [B, ceil(N/2), floor(N/2)]
        similarity[:, 0] = -math.inf
        best, partner = similarity.max(dim=-1)
        order = best.argsort(dim=-1, descending=True)
        self.stay = order[:, removed:].sort(dim=1)[0]  # the class token stays first
        self.leave = order[:, :removed]
        self.into = partner.gather(1, self.leave)

    def summed(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, N - removed, C]: those that leave are added to their partners."""
        even, odd = x[:, ::2], x[:, 1::2]
        into = self.into.unsqueeze(-1).expand(-1, -1, x.shape[2])
        odd = odd.scatter_reduce(1, into, _taken(even, self.leave), reduce="sum")
        return torch.cat((_taken(even, self.stay), odd), dim=1)


def _significance(values: Tensor, weights: Tensor) -> Tensor:
    """Attention of the class token times the norm of the values: [B, N - 1], each row sums to 1."""
    norms = values.transpose(1, 2).flatten(2).norm(dim=2)  # [B, H, N, d] -> [B, N, D] -> [B, N]
    scores = (weights[:, :, 0].sum(dim=1) * norms)[:, 1:]
    return scores / scores.sum(dim=1, keepdim=True)


def _taken(x: Tensor, indices: Tensor) -> Tensor:
    """[B, N, C] at indices [B, n] -> [B, n, C]."""
    return x.gather(1, indices.unsqueeze(-1).expand(-1, -1, x.shape[2]))
