"""Biases of keys and values: dead ones removed, the others moved to where they cost nothing."""

from __future__ import annotations

import torch
from torch import nn

from lavit_deploy.folding.contract import ContractError, Rewrite
from lavit_deploy.folding.liveness import key_constants_matter
from lavit_deploy.folding.modules import (
    FoldedLaViT,
    FoldedLessAttention,
    FoldedVanillaAttention,
    SeparateProjections,
)


class FoldAttentionBiases(Rewrite):
    """A (V + 1 b_v^T) W^T = A V W^T + 1 (W b_v)^T, and Q (K + 1 b_k^T)^T = Q K^T + (Q b_k) 1^T.

    Rows of softmax sum to 1, so the values' bias passes through them into the output projection.
    The keys' bias adds the same to all scores of a query, which is dead where nothing but softmax
    reads the scores; where something does, it stays.
    """

    name = "attention-biases"

    def requires(self, model: FoldedLaViT) -> None:
        for stage, layer, block in model.layers():
            attn = block.attn
            where = f"stage {stage + 1}, layer {layer + 1}"
            if attn.proj.bias is None:
                raise ContractError(f"the output projection of {where} has no bias to add to")
            if isinstance(attn, FoldedVanillaAttention) and not isinstance(
                attn.projections, SeparateProjections
            ):
                raise ContractError(f"projections of {where} are already stacked")

    def apply(self, model: FoldedLaViT) -> int:
        changed = 0
        for stage, layer, block in model.layers():
            attn = block.attn
            if isinstance(attn, FoldedLessAttention):
                changed += _move_value_bias(attn.v, attn.v.out_features, attn.proj)
                attn.v.register_parameter("bias", None)
            elif isinstance(attn.projections, SeparateProjections):
                kv = attn.projections.kv
                changed += _move_value_bias(kv, kv.out_features // 2, attn.proj)
                if not key_constants_matter(model.config, stage, layer):
                    kv.register_parameter("bias", None)
        return changed

    def ensures(self, model: FoldedLaViT) -> None:
        for _, _, block in model.layers():
            attn = block.attn
            if isinstance(attn, FoldedLessAttention):
                left = attn.v.bias
            else:
                kv = attn.projections.kv
                left = None if kv.bias is None else kv.bias[kv.out_features // 2 :]
            if left is not None and left.count_nonzero():
                raise ContractError("a layer still adds a bias to its values")


def _move_value_bias(linear: nn.Linear, size: int, proj: nn.Linear) -> int:
    """Move the last `size` biases of `linear` to `proj`; whether there were any."""
    if linear.bias is None:
        return 0
    with torch.no_grad():
        proj.bias += proj.weight @ linear.bias[-size:]
        linear.bias[-size:] = 0.0
    return 1
