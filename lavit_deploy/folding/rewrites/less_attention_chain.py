"""The LA layers of a stage to independent maps of the last vanilla layer's scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from lavit_deploy.folding.frozen_linear import linear_from
from lavit_deploy.folding.modules.model import FoldedLaViT
from lavit_deploy.folding.modules.scores import (
    FactoredMaps,
    IndependentMaps,
    SerialMaps,
    StackedMaps,
)
from lavit_deploy.folding.rewrite import ContractError, Rewrite
from lavit_deploy.folding.softmax_invariance import key_constants_matter

Order = Literal["scores", "factors"]
"""Which product comes first: P (Q K^T) T^T, or (P Q) (T K)^T."""


@dataclass(frozen=True)
class _Map:
    """One LA layer's scores A = P S T^T + C.

    Attributes:
        queries: P, [N, N].
        keys: T, [M, M].
        constant: C, [N, M].
    """

    queries: Tensor
    keys: Tensor
    constant: Tensor

    def followed_by(self, theta: nn.Linear, psi: nn.Linear) -> _Map:
        """This map, then one more LA layer: psi along queries of theta along keys (Eq. 5)."""
        constant = psi.weight @ (self.constant @ theta.weight.T + theta.bias) + psi.bias[:, None]
        return _Map(psi.weight @ self.queries, theta.weight @ self.keys, constant)

    def without_key_constants(self) -> _Map:
        """The same up to what is equal for all keys of a query: softmax does not see it.

        A (I - 1 1^T / M) takes the mean over keys from T and C. That removes the layer's own
        psi bias, and keeps scores small, which rounding profits from.
        """
        return _Map(
            self.queries,
            self.keys - self.keys.mean(0, keepdim=True),
            self.constant - self.constant.mean(1, keepdim=True),
        )


class CollapseChains(Rewrite):
    """k LA layers in a row, A_i = P_i (A_{i-1} T_i^T + 1 b_t^T) + b_p 1^T, solved for A_0.

    A_i = (P_i ... P_1) A_0 (T_i ... T_1)^T + C_i: no layer waits for the one before it, and the
    scores in between are computed by nobody. What is constant over keys is dropped, except from the
    last layer's map where the next stage's residual reads it complete.

    Args:
        order: which product comes first; by default the one with fewer multiply-adds.
        stacked: compute the products with all P_i ... P_1 as one; the number of multiply-adds is
            the same, but all maps are in memory at once.
    """

    name = "la-chains"

    def __init__(self, order: Order | None = None, *, stacked: bool = False) -> None:
        self.order = order
        self.stacked = stacked

    def requires(self, model: FoldedLaViT) -> None:
        if self.order == "factors":
            for index in range(len(model.stages)):
                if model.stage(index).chain is not None and not _has_factors(model, index):
                    raise ContractError(
                        f"scores of stage {index + 1} contain the attention residual, "
                        "so they have no factors Q and K"
                    )

    def apply(self, model: FoldedLaViT) -> int:
        changed = 0
        for index in range(len(model.stages)):
            stage = model.stage(index)
            if isinstance(stage.chain, SerialMaps):
                maps = _maps(stage.chain)
                last = model.config.depths[index] - 1
                complete = key_constants_matter(model.config, index, last)
                maps = [
                    item if complete and item is maps[-1] else item.without_key_constants()
                    for item in maps
                ]
                if (self.order or cheaper_order(model, index)) == "factors":
                    stage.chain = _factored(maps)
                else:
                    stage.chain = _stacked(maps) if self.stacked else _independent(maps)
                changed += len(maps)
        return changed

    def ensures(self, model: FoldedLaViT) -> None:
        if any(isinstance(module, SerialMaps) for module in model.modules()):
            raise ContractError("a chain of LA layers is left")


def cheaper_order(model: FoldedLaViT, stage: int) -> Order:
    """The order of products with fewer multiply-adds for a stage's LA layers.

    P (Q K^T) T^T costs N M (N + M) per head and layer, as Q K^T is there anyway; (P Q) (T K)^T
    costs d (N^2 + M^2 + N M), and needs scores that are Q K^T and nothing else.
    """
    config = model.config
    tokens, keys, dim = config.tokens(stage), config.keys(stage), config.head_dim(stage)
    scores = tokens * keys * (tokens + keys)
    factors = dim * (tokens**2 + keys**2 + tokens * keys)
    return "factors" if factors < scores and _has_factors(model, stage) else "scores"


def _has_factors(model: FoldedLaViT, index: int) -> bool:
    """Whether the chain's source is free of the residual, which the first layer alone gets."""
    stage = model.stage(index)
    return stage.residual is None or stage.vanilla > 1


def _maps(chain: SerialMaps) -> list[_Map]:
    thetas = [cast("nn.Linear", theta) for theta in chain.thetas]
    psis = [cast("nn.Linear", psi) for psi in chain.psis]
    keys, tokens = thetas[0].in_features, psis[0].in_features
    like = thetas[0].weight
    current = _Map(
        torch.eye(tokens, dtype=like.dtype),
        torch.eye(keys, dtype=like.dtype),
        like.new_zeros(tokens, keys),
    )
    maps = []
    for theta, psi in zip(thetas, psis, strict=True):
        current = current.followed_by(theta, psi)
        maps.append(current)
    return maps


def _independent(maps: list[_Map]) -> IndependentMaps:
    thetas = [linear_from(item.keys) for item in maps]
    psis = [linear_from(item.queries) for item in maps]
    return IndependentMaps(thetas, psis, _constants(maps))


def _stacked(maps: list[_Map]) -> StackedMaps:
    psi = linear_from(torch.cat([item.queries for item in maps]))  # [k*N, N]
    return StackedMaps(psi, [linear_from(item.keys) for item in maps], _constants(maps))


def _factored(maps: list[_Map]) -> FactoredMaps:
    psi = linear_from(torch.cat([item.queries for item in maps]))  # [k*N, N]
    theta = linear_from(torch.cat([item.keys for item in maps]))  # [k*M, M]
    return FactoredMaps(psi, theta, _constants(maps))


def _constants(maps: list[_Map]) -> list[Tensor]:
    return [nn.Parameter(item.constant, requires_grad=False) for item in maps]
