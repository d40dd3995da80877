"""1 / sqrt(d) into the queries."""

from __future__ import annotations

import torch

from lavit_deploy.folding.modules.attention import FoldedVanillaAttention, SeparateProjections
from lavit_deploy.folding.modules.model import FoldedLaViT
from lavit_deploy.folding.rewrite import ContractError, Rewrite


class FoldQueryScale(Rewrite):
    """s (W x + b) = (s W) x + s b."""

    name = "query-scale"

    def requires(self, model: FoldedLaViT) -> None:
        for stage, layer, block in model.layers():
            attn = block.attn
            if isinstance(attn, FoldedVanillaAttention) and not isinstance(
                attn.projections, SeparateProjections
            ):
                raise ContractError(
                    f"projections of stage {stage + 1}, layer {layer + 1} are already stacked"
                )

    def apply(self, model: FoldedLaViT) -> int:
        changed = 0
        for projections in _separate(model):
            if projections.scale != 1.0:
                with torch.no_grad():
                    for value in projections.q.parameters():
                        value.mul_(projections.scale)
                projections.scale = 1.0
                changed += 1
        return changed

    def ensures(self, model: FoldedLaViT) -> None:
        if any(projections.scale != 1.0 for projections in _separate(model)):
            raise ContractError("a layer still scales its queries")


def need_folded_scale(model: FoldedLaViT) -> None:
    """Check what rewrites need that merge queries' weights with others.

    Raises:
        ContractError: queries of a layer are still scaled apart.
    """
    for stage, layer, block in model.layers():
        projections = getattr(block.attn, "projections", None)
        if isinstance(projections, SeparateProjections) and projections.scale != 1.0:
            raise ContractError(
                f"queries of stage {stage + 1}, layer {layer + 1} are still scaled apart"
            )


def _separate(model: FoldedLaViT) -> list[SeparateProjections]:
    return [module for module in model.modules() if isinstance(module, SeparateProjections)]
