"""A folded LaViT whose narrow MLPs are one operator each (`mlp.py`)."""

from __future__ import annotations

from torch import Tensor

from lavit_deploy.folding.modules.model import FoldedBlock, FoldedLaViT
from lavit_deploy.folding.rewrite import ContractError, Rewrite
from lavit_deploy.kernels.mlp import WIDTHS, fused_mlp


class FusedMlpBlock(FoldedBlock):
    """A block whose residual MLP, LayerNorm included, is one operator.

    It computes in the type of the MLP's weights, so a block in half precision is this block with
    its linear layers rounded.
    """

    def __init__(self, block: FoldedBlock) -> None:
        super().__init__(block.norm1, block.attn, block.norm2, block.mlp)

    def feed_forward(self, x: Tensor) -> Tensor:
        first, second = self.mlp.fc1, self.mlp.fc2
        return fused_mlp(x, first.weight, first.bias, second.weight, second.bias, self.norm2.eps)


class FuseNarrowMlps(Rewrite):
    """x + fc2(GELU(fc1(LayerNorm(x)))) to one operator, where tokens are narrow enough for it.

    It goes after the LayerNorms' affines were folded:
    fold(..., rewrites=(*default_rewrites(), FuseNarrowMlps())).
    """

    name = "narrow-mlps"

    def requires(self, model: FoldedLaViT) -> None:
        for stage, layer, block in model.layers():
            if block.norm2.elementwise_affine:
                raise ContractError(
                    f"the LayerNorm of the MLP in stage {stage + 1}, layer {layer + 1} still has "
                    "an affine"
                )

    def apply(self, model: FoldedLaViT) -> int:
        changed = 0
        for stage, layer, block in model.layers():
            if block.mlp.fc1.in_features in WIDTHS:
                model.stage(stage).blocks[layer] = FusedMlpBlock(block)
                changed += 1
        return changed
