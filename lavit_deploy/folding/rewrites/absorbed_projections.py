"""Query and output projections into the keys and values, where those are few."""

from __future__ import annotations

import torch

from lavit_deploy.folding.frozen_linear import linear_from
from lavit_deploy.folding.modules.attention import (
    AbsorbedAttention,
    FoldedVanillaAttention,
    SeparateProjections,
)
from lavit_deploy.folding.modules.model import FoldedLaViT
from lavit_deploy.folding.modules.patches import Reduction
from lavit_deploy.folding.modules.scores import FactoredMaps
from lavit_deploy.folding.rewrite import ContractError, Rewrite
from lavit_deploy.folding.rewrites.query_scale import need_folded_scale
from lavit_deploy.model.config import LaViTConfig


class AbsorbProjections(Rewrite):
    """Products in a cheaper order: (x W_q^T)(y W_k^T)^T = x (y W_k^T W_q)^T, and A (y W_v^T) W_p^T.

    x are N tokens, y the M = N / r^2 reduced ones. Per head, W_k^T W_q and W_p W_v are [D, D]
    constants, applied to y instead of x, and both large projections are gone. That saves
    multiply-adds where there are few heads and many tokens, in the first stages; elsewhere the
    layer stays as it is. Rows of softmax sum to 1, so the output's bias moves to the values too.
    """

    name = "absorbed-projections"

    def requires(self, model: FoldedLaViT) -> None:
        need_folded_scale(model)

    def apply(self, model: FoldedLaViT) -> int:
        changed = 0
        for index, layer, block in model.layers():
            stage = model.stage(index)
            # These maps read queries and keys, which must then exist.
            factored = isinstance(stage.chain, FactoredMaps) and layer == stage.vanilla - 1
            if (
                isinstance(block.attn, FoldedVanillaAttention)
                and absorbing_saves(model.config, index)
                and not factored
            ):
                block.attn = _absorbed(block.attn)
                changed += 1
        return changed


def absorbing_saves(config: LaViTConfig, stage: int) -> bool:
    """Whether a vanilla layer of a stage has fewer multiply-adds without projections of tokens.

    For scores, as for values: N D^2 + M D^2 + N M D as usual, M H D^2 + H N M D absorbed.
    """
    if config.sr_ratios[stage] == 1:
        return False
    tokens, keys = config.tokens(stage), config.keys(stage)
    dim, heads = config.dims[stage], config.heads[stage]
    usual = (tokens + keys) * dim * dim + tokens * keys * dim
    return heads * (keys * dim * dim + tokens * keys * dim) < usual


def _absorbed(attn: FoldedVanillaAttention) -> AbsorbedAttention:
    separate = attn.projections
    if not isinstance(separate, SeparateProjections) or not isinstance(separate.reduce, Reduction):
        raise ContractError("only separate projections of reduced tokens can be absorbed")
    heads, dim = separate.heads, separate.q.in_features
    kv = separate.kv
    kv_bias = kv.weight.new_zeros(2 * dim) if kv.bias is None else kv.bias
    # outputs of each head apart: [D, D] -> [H, d, D], [D] -> [H, d]
    query, query_bias = (
        item.reshape(heads, -1, *item.shape[1:]) for item in (separate.q.weight, separate.q.bias)
    )
    key, value = kv.weight.reshape(2, heads, -1, dim)
    key_bias, value_bias = kv_bias.reshape(2, heads, -1)
    proj = attn.proj.weight.reshape(dim, heads, -1)  # inputs apart: [D, D] -> [D, H, d]
    weight = torch.cat(
        (
            torch.einsum("hdi,hdj->hij", query, key).flatten(0, 1),  # W_q^T W_k, [H*D, D]
            torch.einsum("ohd,hdj->hoj", proj, value).flatten(0, 1),  # W_p W_v, [H*D, D]
            torch.einsum("hd,hdj->hj", query_bias, key),  # b_q W_k, [H, D]
        )
    )
    bias = torch.cat(
        (
            torch.einsum("hdi,hd->hi", query, key_bias).flatten(),
            (torch.einsum("ohd,hd->ho", proj, value_bias) + attn.proj.bias / heads).flatten(),
            torch.einsum("hd,hd->h", query_bias, key_bias),
        )
    )
    return AbsorbedAttention(heads, separate.reduce, linear_from(weight, bias))
