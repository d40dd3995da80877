"""k = s convolutions to matrix products."""

from __future__ import annotations

from torch import nn

from lavit_deploy.folding.frozen_linear import linear_from
from lavit_deploy.folding.modules.model import FoldedLaViT
from lavit_deploy.folding.modules.patches import (
    FoldedPatchEmbed,
    PatchConv,
    PatchProduct,
    Reduction,
)
from lavit_deploy.folding.rewrite import ContractError, Rewrite


class ProductsFromConvolutions(Rewrite):
    """A convolution whose patches do not overlap sees each input once: a product of patches.

    Tokens are stored channels last, as rows of patches are read, so a product saves the two
    transpositions around a convolution.

    Args:
        embeddings: rewrite the patch embeddings.
        reductions: rewrite the spatial reductions.
    """

    name = "patch-products"

    def __init__(self, *, embeddings: bool = True, reductions: bool = True) -> None:
        kinds = ((FoldedPatchEmbed, embeddings), (Reduction, reductions))
        self.kinds = tuple(kind for kind, wanted in kinds if wanted)

    def requires(self, model: FoldedLaViT) -> None:
        for module in model.modules():
            if isinstance(module, PatchConv):
                conv = module.conv
                if conv.kernel_size != conv.stride or conv.groups != 1 or conv.padding != (0, 0):
                    raise ContractError(f"{conv} has patches that overlap, or padding or groups")

    def apply(self, model: FoldedLaViT) -> int:
        changed = 0
        for module in model.modules():
            if isinstance(module, self.kinds) and isinstance(module.patches, PatchConv):
                module.patches = _product(module.patches)
                changed += 1
        return changed

    def ensures(self, model: FoldedLaViT) -> None:
        for module in model.modules():
            if isinstance(module, self.kinds) and isinstance(module.patches, PatchConv):
                raise ContractError("a convolution is left")


def _product(patches: PatchConv) -> PatchProduct:
    conv: nn.Conv2d = patches.conv
    # [D, C, p, p] -> [D, p, p, C] -> [D, p*p*C]: the order in which tokens lie in memory
    weight = conv.weight.permute(0, 2, 3, 1).flatten(1)
    return PatchProduct(linear_from(weight, conv.bias), patches.grid, conv.kernel_size[0])
