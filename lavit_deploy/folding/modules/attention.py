"""Attention: projections, and layers that compute their scores or are given them."""

from __future__ import annotations

from torch import Tensor, nn

from lavit_deploy.folding.modules.patches import Reduction
from lavit_deploy.folding.modules.scores import Scores
from lavit_deploy.model.lavit import widened


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, N, H*d] -> [B, N, H, d] -> [B, H, N, d]."""
    if heads == 1:
        return x.unsqueeze(1)  # nothing moves, which a runtime would not see in a transposition
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """[B, H, N, d] -> [B, N, H, d] -> [B, N, H*d]."""
    if x.shape[1] == 1:
        return x.flatten(1, 2)
    return x.transpose(1, 2).flatten(2)


def attend_and_project(scores: Tensor, v: Tensor, proj: nn.Module) -> Tensor:
    """softmax(scores) V, heads joined, projected: [B, H, N, M], [B, H, M, d] -> [B, N, D]."""
    attention = scores.softmax(dim=-1).to(v.dtype)
    return proj(join_heads(attention @ v))  # [B, H, N, d] -> [B, N, D]


class SeparateProjections(nn.Module):
    """Queries from the tokens, keys and values from the reduced tokens.

    Args:
        heads: H.
        q: D -> D.
        kv: D -> 2D, keys first.
        reduce: [B, N, D] -> [B, M, D]; None where r = 1.
        scale: factor of the queries.
    """

    def __init__(
        self, heads: int, q: nn.Linear, kv: nn.Linear, reduce: Reduction | None, scale: float
    ) -> None:
        super().__init__()
        self.heads = heads
        self.scale = scale
        self.q = q
        self.kv = kv
        self.reduce = reduce

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [B, N, D] -> queries [B, H, N, d], keys and values [B, H, M, d]."""
        q = split_heads(self.q(x), self.heads)
        if self.scale != 1.0:
            q = q * self.scale
        kv = self.kv(x if self.reduce is None else self.reduce(x))  # [B, M, 2D]
        k, v = split_heads(kv, 2 * self.heads).chunk(2, dim=1)  # [B, 2H, M, d]
        return q, k, v


class StackedProjections(nn.Module):
    """Queries, keys and values of the same tokens in one product.

    Args:
        heads: H.
        qkv: D -> 3D, queries (scaled), keys, values.
    """

    def __init__(self, heads: int, qkv: nn.Linear) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = qkv

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [B, N, D] -> queries, keys and values [B, H, N, d]."""
        qkv = split_heads(self.qkv(x), 3 * self.heads)  # [B, 3H, N, d]
        q, k, v = qkv.chunk(3, dim=1)
        return q, k, v


class FoldedVanillaAttention(nn.Module):
    """Attention that computes its scores (Eq. 4), with the residual added to them (Eq. 7)."""

    def __init__(self, projections: SeparateProjections, proj: nn.Linear) -> None:
        super().__init__()
        self.projections: nn.Module = projections
        self.proj = proj

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Scores]:
        q, k, v = self.projections(x)
        scores = widened(q @ k.transpose(-2, -1))  # [B, H, N, M]
        if residual is not None:
            scores = scores + residual
        return attend_and_project(scores, v, self.proj), Scores(scores, q, k)


class AbsorbedAttention(nn.Module):
    """Vanilla attention without queries and without an output projection.

    x W_q^T (y W_k^T)^T = x (y (W_q^T W_k)^T)^T: the keys, of which there are few, take over the
    projection of the queries, and the values that of the output. With b_q and b_k the scores of
    head h are x G_h^T + 1 g_h^T, and G_h, g_h and the projected values V_h are one product of the
    reduced tokens y.

    Args:
        heads: H.
        reduce: tokens [B, N, D] -> y [B, M, D].
        stacked: D -> 2*H*D + H: G, V, g.
    """

    def __init__(self, heads: int, reduce: Reduction, stacked: nn.Linear) -> None:
        super().__init__()
        self.heads = heads
        self.reduce = reduce
        self.stacked = stacked

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Scores]:
        stacked = self.stacked(self.reduce(x))  # [B, M, 2*H*D + H]
        width = self.heads * x.shape[2]
        keys, values, offsets = stacked.split_with_sizes((width, width, self.heads), dim=2)
        # [B, 1, N, D] @ [B, H, D, M] -> [B, H, N, M]
        queries = x.unsqueeze(1).to(keys.dtype)
        scores = widened(queries @ split_heads(keys, self.heads).transpose(-2, -1))
        scores = scores + widened(offsets).transpose(1, 2).unsqueeze(2)  # [B, H, 1, M]
        if residual is not None:
            scores = scores + residual
        attention = scores.softmax(dim=-1).to(values.dtype)
        if self.heads > 1:  # [B, M, H*D] -> [B, H, M, D] -> [B, H*M, D]
            values = split_heads(values, self.heads).flatten(1, 2)
        # [B, H, N, M] -> [B, N, H*M]: the product also sums over heads
        return join_heads(attention) @ values, Scores(scores)


class FoldedLessAttention(nn.Module):
    """Attention by scores that the stage's chain has transformed (Eq. 5)."""

    def __init__(self, heads: int, v: nn.Linear, reduce: Reduction | None, proj: nn.Linear) -> None:
        super().__init__()
        self.heads = heads
        self.v = v
        self.reduce = reduce
        self.proj = proj

    def forward(self, x: Tensor, scores: Tensor) -> Tensor:
        v = self.v(x if self.reduce is None else self.reduce(x))  # [B, M, D]
        return attend_and_project(scores, split_heads(v, self.heads), self.proj)
