"""LayerNorm affines into the linear layers that follow."""

from __future__ import annotations

from typing import TypeAlias, cast

import torch
from torch import Tensor, nn

from lavit_deploy.folding.modules.attention import FoldedLessAttention, SeparateProjections
from lavit_deploy.folding.modules.model import FoldedBlock, FoldedLaViT
from lavit_deploy.folding.modules.patches import PatchConv, Reduction
from lavit_deploy.folding.rewrite import ContractError, Rewrite

Reader: TypeAlias = nn.Linear | nn.Conv2d
"""A layer that takes a LayerNorm's output and is linear in it."""


class FoldLayerNorms(Rewrite):
    """W (g x + b) + c = (W g) x + (W b + c) for every LayerNorm that only linear layers read.

    norm1 -> queries and the spatial reduction, or keys and values where there is none; the
    reduction's norm -> keys and values; norm2 -> fc1; the last norm -> the classifier, through the
    mean over tokens, which is linear too. The patch embeddings' norms stay: their output is the
    residual stream, which later layers add to and take statistics of.
    """

    name = "layer-norms"

    def requires(self, model: FoldedLaViT) -> None:
        for stage, layer, block in model.layers():
            if any(reader.bias is None for _, readers in _affines(block) for reader in readers):
                raise ContractError(
                    f"a reader of a LayerNorm in stage {stage + 1}, layer {layer + 1} has no bias"
                )

    def apply(self, model: FoldedLaViT) -> int:
        changed = 0
        for _, _, block in model.layers():
            for norm, readers in _affines(block):
                changed += _absorb(norm, readers)
        return changed + _absorb(model.last_norm, [model.head])

    def ensures(self, model: FoldedLaViT) -> None:
        left = sum(
            module.elementwise_affine
            for module in model.modules()
            if isinstance(module, nn.LayerNorm)
        )
        if left != len(model.stages):
            raise ContractError(
                f"{left} LayerNorms have an affine, expected those of {len(model.stages)} "
                "patch embeddings"
            )


def _affines(block: FoldedBlock) -> list[tuple[nn.LayerNorm, list[Reader]]]:
    """The LayerNorms of a block, each with all layers that read it."""
    attn = block.attn
    if isinstance(attn, FoldedLessAttention):
        reduce, values, readers = attn.reduce, attn.v, []
    elif isinstance(attn.projections, SeparateProjections):
        reduce, values = attn.projections.reduce, attn.projections.kv
        readers = [attn.projections.q]
    else:
        raise ContractError("projections are already stacked")
    pairs: list[tuple[nn.LayerNorm, list[Reader]]] = [(block.norm2, [block.mlp.fc1])]
    if reduce is None:
        return [*pairs, (block.norm1, [*readers, values])]
    return [*pairs, (block.norm1, [*readers, _conv(reduce)]), (reduce.norm, [values])]


def _conv(reduce: Reduction) -> nn.Conv2d:
    if not isinstance(reduce.patches, PatchConv):
        raise ContractError("a spatial reduction is already a matrix product")
    return reduce.patches.conv


def _absorb(norm: nn.LayerNorm, readers: list[Reader]) -> int:
    """Move the affine of `norm` into its readers; whether there was one."""
    if not norm.elementwise_affine:
        return 0
    gain, shift = norm.weight, norm.bias
    with torch.no_grad():
        for reader in readers:
            weight, bias = reader.weight, cast("Tensor", reader.bias)  # [D', D(, r, r)], [D']
            # k = s and no padding: every position of a kernel sees the same affine.
            bias.add_(torch.einsum("oc...,c->o", weight, shift))
            weight.mul_(gain.reshape(-1, *(1,) * (weight.ndim - 2)))
    norm.elementwise_affine = False
    norm.register_parameter("weight", None)
    norm.register_parameter("bias", None)
    return 1
