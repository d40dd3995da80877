"""The folded LaViT, and the forms that its parts take while it is being folded.

`FoldedLaViT` begins as a transcription of a `LaViT` (`transcription.py`) and is rewritten part by
part; after every rewrite it is a whole model that computes the same function. Where a part has
two forms they share one interface, so a rewrite exchanges one for the other.

Letters as in `lavit_deploy.model.lavit`: B batch, N query tokens, M key tokens, D channels,
H heads, d = D / H, p patch size, k number of LA layers in a stage. "Scores" are always
pre-softmax.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from lavit_deploy.model.config import STAGES, LaViTConfig
from lavit_deploy.model.lavit import Mlp, widened


class ScoreMap(nn.Module):
    """Base of every module that maps scores to scores: it stays float32 in mixed precision."""


class Scores(NamedTuple):
    """Pre-softmax scores of a vanilla layer, and the factors that they are the product of.

    Attributes:
        scores: [B, H, N, M] = queries keys^T, plus the attention residual where there is one.
        queries: [B, H, N, d], already scaled; None where they are never computed.
        keys: [B, H, M, d]; None where they are never computed.
    """

    scores: Tensor
    queries: Tensor | None = None
    keys: Tensor | None = None


class Normalise(nn.Module):
    """uint8 pictures [B, H, W, C] to the scale of training: (x / 255 - mean) / std."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)  # [C]
        self.register_buffer("shift", shift)  # [C]

    def forward(self, images: Tensor) -> Tensor:
        return images.to(self.scale.dtype) * self.scale - self.shift


class PatchConv(nn.Module):
    """A k = s convolution of a token grid, computed as a convolution.

    Args:
        conv: the convolution, without padding.
        grid: height and width of the input grid.
    """

    def __init__(self, conv: nn.Conv2d, grid: tuple[int, int]) -> None:
        super().__init__()
        self.conv = conv
        self.grid = grid

    def forward(self, x: Tensor) -> Tensor:
        """[B, h*p, w*p, C] or [B, h*p * w*p, C] -> [B, N, D]."""
        if x.ndim == 3:
            x = x.reshape(x.shape[0], *self.grid, -1)  # [B, h*p * w*p, C] -> [B, h*p, w*p, C]
        x = x.permute(0, 3, 1, 2).to(self.conv.weight.dtype)  # -> [B, C, h*p, w*p]
        return self.conv(x).flatten(2).transpose(1, 2)  # [B, D, h, w] -> [B, D, N] -> [B, N, D]


class PatchProduct(nn.Module):
    """A k = s convolution of a token grid, computed as a matrix product.

    Channels stay innermost, so a row of a patch is one run of memory, and pictures are cut into
    patches while they are still uint8.

    Args:
        linear: p*p*C -> D; its inputs are ordered row, column, channel of a patch.
        grid: height and width of the input grid.
        patch: p.
    """

    def __init__(self, linear: nn.Linear, grid: tuple[int, int], patch: int) -> None:
        super().__init__()
        self.linear = linear
        self.grid = grid
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        """[B, h*p, w*p, C] or [B, h*p * w*p, C] -> [B, N, D]."""
        patch = self.patch
        height, width = self.grid[0] // patch, self.grid[1] // patch
        run = patch * x.shape[-1]
        x = x.reshape(x.shape[0], height, patch, width, run)  # -> [B, h, p, w, p*C]
        x = x.transpose(2, 3)  # -> [B, h, w, p, p*C]
        x = x.reshape(x.shape[0], height * width, patch * run)  # -> [B, N, p*p*C]
        # A LayerNorm follows everywhere, and LayerNorm stays float32.
        return widened(self.linear(x.to(self.linear.weight.dtype)))


class PatchEmbed(nn.Module):
    """Patches, then LayerNorm: [B, h*p * w*p, C] -> [B, N, D].

    The LayerNorm's output is the residual stream itself, which every block adds to and the next
    LayerNorm takes statistics of, so its affine has no linear layer to go to and stays.
    """

    def __init__(self, patches: PatchConv | PatchProduct, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.patches: nn.Module = patches
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.patches(x))


class Reduction(nn.Module):
    """Spatial reduction of keys and values: patches, then LayerNorm, [B, N, D] -> [B, M, D]."""

    def __init__(self, patches: PatchConv | PatchProduct, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.patches: nn.Module = patches
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.patches(x))


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


def mix(scores: Tensor, v: Tensor, proj: nn.Module) -> Tensor:
    """softmax(scores) V, heads joined, projected: [B, H, N, M], [B, H, M, d] -> [B, N, D]."""
    attention = scores.softmax(dim=-1).to(v.dtype)
    return proj(join_heads(attention @ v))  # [B, H, N, d] -> [B, N, D]


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
        return mix(scores, v, self.proj), Scores(scores, q, k)


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
        return mix(scores, split_heads(v, self.heads), self.proj)


class SerialMaps(ScoreMap):
    """The LA maps of a stage one after the other, as Eq. 5 writes them.

    Args:
        thetas: Linear(M, M) of each LA layer, along keys.
        psis: Linear(N, N) of each LA layer, along queries.
    """

    def __init__(self, thetas: list[nn.Linear], psis: list[nn.Linear]) -> None:
        super().__init__()
        self.thetas = nn.ModuleList(thetas)
        self.psis = nn.ModuleList(psis)

    def forward(self, source: Scores) -> list[Tensor]:
        """Scores of the last vanilla layer -> scores of every LA layer, [B, H, N, M] each."""
        scores, chained = source.scores, []
        for theta, psi in zip(self.thetas, self.psis, strict=True):
            transposed = theta(scores).transpose(-2, -1)  # [B, H, N, M] -> [B, H, M, N]
            scores = psi(transposed).transpose(-2, -1)  # [B, H, M, N] -> [B, H, N, M]
            chained.append(scores)
        return chained


class IndependentMaps(ScoreMap):
    """Every LA layer's scores directly from the vanilla layer's: A_l = P_l S T_l^T + C_l.

    Args:
        thetas: M -> M without bias, T_l of each layer.
        psis: N -> N without bias, P_l of each layer.
        constants: C_l of each layer, [N, M].
    """

    def __init__(
        self, thetas: list[nn.Linear], psis: list[nn.Linear], constants: list[Tensor]
    ) -> None:
        super().__init__()
        self.thetas = nn.ModuleList(thetas)
        self.psis = nn.ModuleList(psis)
        self.constants = nn.ParameterList(constants)

    def forward(self, source: Scores) -> list[Tensor]:
        """Scores of the last vanilla layer -> scores of every LA layer, [B, H, N, M] each."""
        maps = zip(self.thetas, self.psis, self.constants, strict=True)
        return [
            # theta on [B, H, N, M], psi on its transpose [B, H, M, N]
            psi(theta(source.scores).transpose(-2, -1)).transpose(-2, -1) + constant
            for theta, psi, constant in maps
        ]


class StackedMaps(ScoreMap):
    """`IndependentMaps` with all P_l in one product.

    Args:
        psi: N -> k*N without bias, the P_l stacked.
        thetas: M -> M without bias, T_l of each layer.
        constants: C_l of each layer, [N, M].
    """

    def __init__(self, psi: nn.Linear, thetas: list[nn.Linear], constants: list[Tensor]) -> None:
        super().__init__()
        self.psi = psi
        self.thetas = nn.ModuleList(thetas)
        self.constants = nn.ParameterList(constants)

    def forward(self, source: Scores) -> list[Tensor]:
        """Scores of the last vanilla layer -> scores of every LA layer, [B, H, N, M] each."""
        stacked = self.psi(source.scores.transpose(-2, -1))  # [B, H, N, M] -> [B, H, M, k*N]
        parts = stacked.transpose(-2, -1).chunk(len(self.thetas), dim=2)  # k of [B, H, N, M]
        return [
            theta(part) + constant
            for part, theta, constant in zip(parts, self.thetas, self.constants, strict=True)
        ]


class FactoredMaps(ScoreMap):
    """The same maps applied to the factors of the scores: A_l = (P_l Q) (T_l K)^T + C_l.

    Cheaper than `IndependentMaps` where there are more tokens than channels in a head. It needs
    scores that are the product of Q and K and nothing else, so no attention residual.

    Args:
        psi: N -> k*N without bias, the P_l stacked.
        theta: M -> k*M without bias, the T_l stacked.
        constants: C_l of each layer, [N, M].
    """

    def __init__(self, psi: nn.Linear, theta: nn.Linear, constants: list[Tensor]) -> None:
        super().__init__()
        self.psi = psi
        self.theta = theta
        self.constants = nn.ParameterList(constants)

    def forward(self, source: Scores) -> list[Tensor]:
        """Factors of the last vanilla layer's scores -> scores of every LA layer."""
        if source.queries is None or source.keys is None:
            raise TypeError("the scores come without their factors")
        layers = len(self.constants)
        # [B, H, N, d] -> [B, H, d, N] -> [B, H, d, k*N]
        queries = self.psi(widened(source.queries).transpose(-2, -1))
        # [B, H, M, d] -> [B, H, d, M] -> [B, H, d, k*M]
        mapped = self.theta(widened(source.keys).transpose(-2, -1))
        pairs = zip(
            queries.chunk(layers, dim=3), mapped.chunk(layers, dim=3), self.constants, strict=True
        )
        return [q.transpose(-2, -1) @ k + constant for q, k, constant in pairs]


class FoldedResidual(ScoreMap):
    """The attention residual (Eq. 6-7) as one convolution along the query grid.

    Keys are the innermost, untouched dimension of the picture, so scores need no transposition.

    Args:
        conv: H' -> H, kernel and stride (p, p, 1).
        grid: query grid (h', w') of the previous stage.
        class_token: whether a zero row and column precede the result.
    """

    def __init__(self, conv: nn.Conv3d, grid: tuple[int, int], *, class_token: bool) -> None:
        super().__init__()
        self.conv = conv
        self.grid = grid
        self.class_token = class_token

    def forward(self, scores: Tensor) -> Tensor:
        """[B, H', N', M] of the previous stage -> [B, H, N, M] of this one."""
        maps = scores.reshape(
            *scores.shape[:2], *self.grid, -1
        )  # [B, H', N', M] -> [B, H', h', w', M]
        maps = self.conv(maps).flatten(2, 3)  # [B, H, h, w, M] -> [B, H, N, M]
        if self.class_token:  # the token has no scores before: a zero row and column
            maps = nn.functional.pad(maps, (1, 0, 1, 0))
        return maps


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
        patch_embed: PatchEmbed,
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
    """A LaViT for inference: uint8 pictures [B, H, W, 3] -> logits [B, K].

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
        normalise: Normalise,
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
        """Classify: uint8 [B, H, W, 3] -> logits [B, K]."""
        x = images if self.normalise is None else self.normalise(images)
        last: Tensor | None = None
        for index in range(STAGES):
            x, last = self.stages[index](x, last)
        x = self.last_norm(x)
        pooled = x[:, 0] if self.config.class_token else x.mean(dim=1)  # [B, N, D] -> [B, D]
        return self.head(pooled)
