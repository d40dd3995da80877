"""Biases of keys and values: dead ones removed, the others moved to where they cost nothing."""

from __future__ import annotations

import torch
from torch import nn

from lavit_deploy.folding.modules.attention import (
    FoldedLessAttention,
    FoldedVanillaAttention,
    SeparateProjections,
)
from lavit_deploy.folding.modules.model import FoldedBlock, FoldedLaViT
from lavit_deploy.folding.rewrite import ContractError, Rewrite
from lavit_deploy.folding.softmax_invariance import key_constants_matter


class FoldAttentionBiases(Rewrite):
    """A (V + 1 b_v^T) W^T = A V W^T + 1 (W b_v)^T, and Q (K + 1 b_k^T)^T = Q K^T + (Q b_k) 1^T.

    Rows of softmax sum to 1, so the values' bias passes through them into the output projection.
    The keys' bias adds the same to all scores of a query, which is dead where nothing but softmax
    reads the scores; where something does, it stays.
    """

    name = "attention-biases"

    def requires(self, model: FoldedLaViT) -> None:
        for stage, layer, block in model.layers():
            _, proj = _values(block)
            if proj.bias is None:
                raise ContractError(
                    f"the output projection of stage {stage + 1}, layer {layer + 1} "
                    "has no bias to add to"
                )

    def apply(self, model: FoldedLaViT) -> int:
        changed = 0
        for stage, layer, block in model.layers():
            values, proj = _values(block)
            changed += _move_value_bias(values, proj)
            less = isinstance(block.attn, FoldedLessAttention)
            if less or not key_constants_matter(model.config, stage, layer):
                values.register_parameter("bias", None)
        return changed

    def ensures(self, model: FoldedLaViT) -> None:
        for _, _, block in model.layers():
            values, proj = _values(block)
            if values.bias is not None and values.bias[-proj.in_features :].count_nonzero():
                raise ContractError("a layer still adds a bias to its values")


def _values(block: FoldedBlock) -> tuple[nn.Linear, nn.Linear]:
    """The layer of a block whose last outputs are its values, and its output projection."""
    attn = block.attn
    if isinstance(attn, FoldedLessAttention):
        return attn.v, attn.proj
    if isinstance(attn, FoldedVanillaAttention) and isinstance(
        attn.projections, SeparateProjections
    ):
        return attn.projections.kv, attn.proj
    raise ContractError("projections are already stacked or absorbed")


def _move_value_bias(values: nn.Linear, proj: nn.Linear) -> int:
    """Move the values' bias to the output projection; whether there was any."""
    if values.bias is None:
        return 0
    size = proj.in_features
    with torch.no_grad():
        proj.bias.add_(proj.weight @ values.bias[-size:])
        values.bias[-size:] = 0.0
    return 1
