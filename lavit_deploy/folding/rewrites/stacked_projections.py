"""Queries, keys and values that read the same tokens to one product."""

from __future__ import annotations

import torch

from lavit_deploy.folding.frozen_linear import linear_from
from lavit_deploy.folding.modules.attention import (
    FoldedVanillaAttention,
    SeparateProjections,
    StackedProjections,
)
from lavit_deploy.folding.modules.model import FoldedLaViT
from lavit_deploy.folding.rewrite import ContractError, Rewrite
from lavit_deploy.folding.rewrites.query_scale import need_folded_scale


class StackProjections(Rewrite):
    """[W_q x, W_kv x] = [W_q; W_kv] x where r = 1, so that both read the same x.

    With spatial reduction, keys and values read other tokens than queries and stay apart.
    """

    name = "stacked-projections"

    def requires(self, model: FoldedLaViT) -> None:
        need_folded_scale(model)

    def apply(self, model: FoldedLaViT) -> int:
        changed = 0
        for _, _, block in model.layers():
            attn = block.attn
            if (
                isinstance(attn, FoldedVanillaAttention)
                and isinstance(attn.projections, SeparateProjections)
                and attn.projections.reduce is None
            ):
                attn.projections = _stacked(attn.projections)
                changed += 1
        return changed

    def ensures(self, model: FoldedLaViT) -> None:
        for module in model.modules():
            if isinstance(module, SeparateProjections) and module.reduce is None:
                raise ContractError("a layer without spatial reduction has separate projections")


def _stacked(separate: SeparateProjections) -> StackedProjections:
    q, kv = separate.q, separate.kv
    weight = torch.cat((q.weight, kv.weight))  # [3D, D]
    kv_bias = kv.weight.new_zeros(kv.out_features) if kv.bias is None else kv.bias
    return StackedProjections(
        separate.heads,
        linear_from(weight, torch.cat((q.bias, kv_bias))),  # [3D]
    )
