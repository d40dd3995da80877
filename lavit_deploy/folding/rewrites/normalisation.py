"""Mean and standard deviation into the first patch embedding."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from lavit_deploy.folding.modules.model import FoldedLaViT
from lavit_deploy.folding.modules.patches import PatchConv, PixelNormalisation
from lavit_deploy.folding.rewrite import ContractError, Rewrite


class FoldNormalisation(Rewrite):
    """W (s x - m) + b = (W s) x + (b - W m), per input channel.

    Exact because the convolution has no padding: a padded zero would not be a normalised zero.
    """

    name = "normalisation"

    def requires(self, model: FoldedLaViT) -> None:
        patches = model.stage(0).patch_embed.patches
        if not isinstance(patches, PatchConv) or patches.conv.bias is None:
            raise ContractError("the first patch embedding must still be a convolution with bias")
        if any(pad != 0 for pad in patches.conv.padding):
            raise ContractError(f"the first convolution is padded by {patches.conv.padding}")

    def apply(self, model: FoldedLaViT) -> int:
        normalise, patches = model.normalise, model.stage(0).patch_embed.patches
        if not isinstance(normalise, PixelNormalisation) or not isinstance(patches, PatchConv):
            return 0
        weight, bias = patches.conv.weight, cast("Tensor", patches.conv.bias)
        with torch.no_grad():
            bias.sub_(torch.einsum("ochw,c->o", weight, normalise.shift))
            weight.mul_(normalise.scale[:, None, None])
        model.normalise = None
        return 1

    def ensures(self, model: FoldedLaViT) -> None:
        if model.normalise is not None:
            raise ContractError("pictures are still normalised")
