"""The diagonality-preserving (DP) loss, Eq. 8 to 10 of the paper, with its sign corrected.

As printed, Eq. 9 minimises (N-1) A_ii - sum_{j != i} A_ij: that pushes the diagonal *down*, against
Eq. 8 which it is there to keep. Here the term is sum_{j != i} A_ij - (N-1) A_ii.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lavit_deploy.model.config import LaViTConfig
from lavit_deploy.model.lavit import LayerScores, widened


def square_map(scores: Tensor, grid: tuple[int, int], key_grid: tuple[int, int]) -> Tensor:
    """Attention of cells on cells: softmax, then the mean over the queries of each r x r cell.

    With spatial reduction a map is N x M; key j stands for one r x r cell of queries, so averaging
    the queries of cell i gives the M x M map in which Eq. 8's A_ii and A_ji have a meaning.

    Args:
        scores: pre-softmax scores [B, H, N, M].
        grid: token grid (h, w), N = h * w, or N = h * w + 1 with a class token.
        key_grid: key grid (h / r, w / r).

    Returns:
        [B, H, M, M]; rows sum to one.
    """
    attention = widened(scores).softmax(dim=-1)
    if grid == key_grid:  # square already, with or without the class token
        return attention
    batch, heads, _, keys = scores.shape
    rows, columns = key_grid
    ratio = grid[0] // rows
    # [B, H, N, M] -> [B, H, h/r, r, w/r, r, M]
    cells = attention.reshape(batch, heads, rows, ratio, columns, ratio, keys)
    return cells.mean(dim=(3, 5)).flatten(2, 3)  # -> [B, H, h/r, w/r, M] -> [B, H, M, M]


def diagonal_share(attention: Tensor) -> Tensor:
    """Mean of A_ii over rows, heads and batch: 1 / M for a uniform map, 1 for the identity.

    Args:
        attention: square maps [B, H, M, M].
    """
    return attention.diagonal(dim1=-2, dim2=-1).mean()


def asymmetry(attention: Tensor) -> Tensor:
    """Mean over rows of sum_j |A_ij - A_ji|: 0 for a symmetric map, at most 2.

    Args:
        attention: square maps [B, H, M, M].
    """
    return (attention - attention.transpose(-2, -1)).abs().sum(dim=-1).mean()


def diagonality_loss(attention: Tensor) -> Tensor:
    """DP loss of one layer (Eq. 9, corrected), as a mean over batch, heads and pairs (i, j != i).

    Dividing Eq. 9 by N (N - 1) makes it the mean asymmetry of a pair plus (mean off-diagonal entry
    minus mean diagonal entry): -1 for the identity and 0 for a uniform map, whatever N is, so one
    weight serves every resolution.

    Args:
        attention: square maps [B, H, N, N], rows summing to one.
    """
    size = attention.shape[-1]
    if size == 1:  # a single token has no pair to compare
        return attention.sum() * 0.0
    diagonal = diagonal_share(attention)
    off_diagonal = (attention.sum(dim=-1).mean() - diagonal) / (size - 1)
    return asymmetry(attention) / (size - 1) + off_diagonal - diagonal


def dp_loss(scores: Iterable[LayerScores], config: LaViTConfig) -> Tensor:
    """Sum of the DP loss over all less-attention layers (Eq. 10's second term).

    Args:
        scores: what `LaViT.forward_with_scores` gave.
        config: the model's configuration.

    Returns:
        A scalar; zero for a model without LA layers.
    """
    scores = list(scores)
    losses = [
        diagonality_loss(
            square_map(item.scores, config.grid(item.stage), config.key_grid(item.stage))
        )
        for item in scores
        if item.less_attention
    ]
    # An empty sum on the scores' device, for a model without LA layers.
    return torch.stack(losses).sum() if losses else scores[0].scores.new_zeros(())
