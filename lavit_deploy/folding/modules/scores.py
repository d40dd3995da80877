"""Pre-softmax scores, and the maps that less-attention and the attention residual make of them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from lavit_deploy.model.lavit import widened


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
