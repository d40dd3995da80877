"""A LaViT rewritten part by part as a `FoldedLaViT`, with nothing folded yet.

What changes is only the order in which things are written down: tokens stay [B, N, D] between
stages, and the LA maps of a stage (Eq. 5), which read scores and never tokens, move from the
blocks to the stage.
"""

from __future__ import annotations

import copy
from typing import cast

import torch

from lavit_deploy.folding.modules.attention import (
    FoldedLessAttention,
    FoldedVanillaAttention,
    SeparateProjections,
)
from lavit_deploy.folding.modules.model import FoldedBlock, FoldedLaViT, FoldedStage
from lavit_deploy.folding.modules.patches import (
    FoldedPatchEmbed,
    PatchConv,
    PixelNormalisation,
    Reduction,
)
from lavit_deploy.folding.modules.scores import SerialMaps
from lavit_deploy.model.lavit import Block, LaViT, LessAttention, SpatialReduction, Stage
from lavit_deploy.preprocess import Preprocess


def unfolded(model: LaViT, preprocess: Preprocess) -> FoldedLaViT:
    """A float64 copy of `model` that takes uint8 pictures, in evaluation mode.

    Args:
        model: any LaViT; it is not changed.
        preprocess: mean and std of its training.
    """
    source = copy.deepcopy(model).double().eval()
    for parameter in source.parameters():
        parameter.requires_grad_(False)
    folded = FoldedLaViT(
        source.config,
        _normalise(preprocess),
        [_stage(source, index) for index in range(len(source.stages))],
        source.norm,
        source.head,
    )
    return folded.eval()


def _normalise(preprocess: Preprocess) -> PixelNormalisation:
    mean = torch.tensor(preprocess.mean, dtype=torch.float64)
    std = torch.tensor(preprocess.std, dtype=torch.float64)
    return PixelNormalisation(1.0 / (255.0 * std), mean / std)


def _stage(model: LaViT, index: int) -> FoldedStage:
    config = model.config
    stage = cast("Stage", model.stages[index])
    grid = config.image_size if index == 0 else config.grid(index - 1)
    patches = PatchConv(stage.patch_embed.proj, grid)
    blocks = [cast("Block", block) for block in stage.blocks]
    less = [block.attn for block in blocks if isinstance(block.attn, LessAttention)]
    chain = SerialMaps([attn.theta for attn in less], [attn.psi for attn in less])
    return FoldedStage(
        FoldedPatchEmbed(patches, stage.patch_embed.norm),
        stage.residual,
        stage.class_token,
        [_block(block) for block in blocks],
        chain if less else None,
    )


def _block(block: Block) -> FoldedBlock:
    attn = block.attn
    reduce = attn.reduce
    reduction = (
        Reduction(PatchConv(reduce.conv, reduce.grid), reduce.norm)
        if isinstance(reduce, SpatialReduction)
        else None
    )
    mixed: FoldedLessAttention | FoldedVanillaAttention
    if isinstance(attn, LessAttention):
        mixed = FoldedLessAttention(attn.heads, attn.v, reduction, attn.proj)
    else:
        projections = SeparateProjections(attn.heads, attn.q, attn.kv, reduction, attn.scale)
        mixed = FoldedVanillaAttention(projections, attn.proj)
    return FoldedBlock(block.norm1, mixed, block.norm2, block.mlp)
