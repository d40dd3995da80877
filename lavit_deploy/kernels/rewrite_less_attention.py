"""A folded LaViT whose less-attention layers are one operator each.

`IndependentMaps` computes the scores of all LA layers of a stage, and every layer reads its own.
Here every layer gets the scores of the last vanilla layer and does the rest in one operator, so
that between the two there is nothing of size N x M in memory. Which operator: that of
`less_attention.py`, or the node of an ONNX graph (`export/graphs/plugin_graph.py`).
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor, nn

from lavit_deploy.folding.modules.attention import FoldedLessAttention, join_heads, split_heads
from lavit_deploy.folding.modules.model import FoldedBlock, FoldedLaViT, FoldedStage
from lavit_deploy.folding.modules.patches import Reduction
from lavit_deploy.folding.modules.scores import IndependentMaps, ScoreMap, Scores, SerialMaps
from lavit_deploy.folding.rewrite import ContractError, Rewrite
from lavit_deploy.kernels.less_attention import less_attention, less_attention_with_scores
from lavit_deploy.model.lavit import widened


class LessAttentionOperator(Protocol):
    """softmax(P S T^T + C) V, and the new scores if asked for; arguments of `less_attention`."""

    def __call__(
        self,
        scores: Tensor,
        queries: Tensor,
        keys: Tensor,
        constant: Tensor,
        values: Tensor,
        *,
        with_scores: bool,
    ) -> tuple[Tensor, Tensor | None]: ...


def torch_operator(
    scores: Tensor,
    queries: Tensor,
    keys: Tensor,
    constant: Tensor,
    values: Tensor,
    *,
    with_scores: bool,
) -> tuple[Tensor, Tensor | None]:
    """The operators of `less_attention.py` as a `LessAttentionOperator`."""
    if with_scores:
        mixed, new_scores = less_attention_with_scores(scores, queries, keys, constant, values)
        return mixed, new_scores
    return less_attention(scores, queries, keys, constant, values), None


class FusedMap(ScoreMap):
    """One LA layer's map of scores, as the constants of an operator.

    Scores are handed to it in the type of `queries`, so rounding `queries` to half precision makes
    the operator compute in that; T and C stay float32.

    Args:
        queries: P, [N, N].
        keys: T, [M, M].
        constant: C, [N, M].
        operator: what computes.
        with_scores: whether the new scores are read by anything but the softmax.
    """

    def __init__(
        self,
        queries: Tensor,
        keys: Tensor,
        constant: Tensor,
        operator: LessAttentionOperator,
        *,
        with_scores: bool,
    ) -> None:
        super().__init__()
        self.queries = nn.Parameter(queries, requires_grad=False)
        self.keys = nn.Parameter(keys, requires_grad=False)
        self.constant = nn.Parameter(constant, requires_grad=False)
        self.operator = operator
        self.with_scores = with_scores

    def forward(self, scores: Tensor, values: Tensor) -> tuple[Tensor, Scores | None]:
        """[B, H, N, M], [B, H, M, d] -> mixed values [B, H, N, d], and new scores [B, H, N, M]."""
        mixed, new_scores = self.operator(
            scores.to(self.queries.dtype),
            self.queries,
            self.keys,
            self.constant,
            values,
            with_scores=self.with_scores,
        )
        return mixed, None if new_scores is None else Scores(widened(new_scores))


class FusedLessAttention(nn.Module):
    """A less-attention layer that maps the vanilla layer's scores itself (Eq. 5, collapsed)."""

    def __init__(
        self, heads: int, v: nn.Linear, reduce: Reduction | None, proj: nn.Linear, fused: FusedMap
    ) -> None:
        super().__init__()
        self.heads = heads
        self.v = v
        self.reduce = reduce
        self.proj = proj
        self.fused = fused

    def forward(self, x: Tensor, scores: Tensor) -> tuple[Tensor, Scores | None]:
        v = self.v(x if self.reduce is None else self.reduce(x))  # [B, M, D]
        mixed, new_scores = self.fused(scores, split_heads(v, self.heads))
        return self.proj(join_heads(mixed)), new_scores  # [B, H, N, d] -> [B, N, D]


class FusedStage(FoldedStage):
    """A stage whose LA layers are `FusedLessAttention`, every one on the same scores."""

    def __init__(self, stage: FoldedStage) -> None:
        super().__init__(
            stage.patch_embed,
            stage.residual,
            stage.class_token,
            [cast("FoldedBlock", block) for block in stage.blocks],
            None,
        )
        self.vanilla = stage.vanilla

    def forward(self, x: Tensor, previous: Tensor | None) -> tuple[Tensor, Tensor]:
        x, source = self.vanilla_layers(x, previous)
        last = source
        for block in self.blocks[self.vanilla :]:
            x, made = block(x, source.scores)
            last = made or last
        return x, last.scores


class FuseLessAttention(Rewrite):
    """softmax(P S T^T + C) V of every LA layer to one operator.

    Stages whose maps act on the factors of scores (`FactoredMaps`, cheaper where tokens are many)
    stay as they are. It goes last: fold(..., rewrites=(*default_rewrites(), FuseLessAttention())).

    Args:
        operator: what computes a layer.
    """

    name = "fused-less-attention"

    def __init__(self, operator: LessAttentionOperator = torch_operator) -> None:
        self.operator = operator

    def requires(self, model: FoldedLaViT) -> None:
        for index in range(len(model.stages)):
            chain = model.stage(index).chain
            if chain is not None and not isinstance(chain, ScoreMap):
                raise ContractError(f"the maps of stage {index + 1} are no map of scores")
            if isinstance(chain, SerialMaps):
                raise ContractError(f"the LA layers of stage {index + 1} are still a chain")

    def apply(self, model: FoldedLaViT) -> int:
        changed = 0
        for index in range(len(model.stages)):
            stage = model.stage(index)
            if not isinstance(stage.chain, IndependentMaps):
                continue
            # The last scores of a stage are read again by the next one's attention residual.
            following = (
                index + 1 < len(model.stages) and model.stage(index + 1).residual is not None
            )
            model.stages[index] = self._fused(stage, stage.chain, with_scores=following)
            changed += len(stage.blocks) - stage.vanilla
        return changed

    def _fused(
        self, stage: FoldedStage, chain: IndependentMaps, *, with_scores: bool
    ) -> FusedStage:
        fused = FusedStage(stage)
        maps = zip(chain.psis, chain.thetas, chain.constants, strict=True)
        last = len(stage.blocks) - 1
        for layer, (psi, theta, constant) in enumerate(maps, start=stage.vanilla):
            attn = fused.blocks[layer].attn
            if not isinstance(attn, FoldedLessAttention):
                raise ContractError(f"layer {layer + 1} is no less-attention layer")
            one = FusedMap(
                cast("nn.Linear", psi).weight.detach(),
                cast("nn.Linear", theta).weight.detach(),
                constant.detach(),
                self.operator,
                with_scores=with_scores and layer == last,
            )
            fused.blocks[layer].attn = FusedLessAttention(
                attn.heads, attn.v, attn.reduce, attn.proj, one
            )
        return fused


def round_scores(model: FoldedLaViT, dtype: torch.dtype) -> None:
    """Let the fused layers take scores and P in `dtype`, in place; T and C stay as they are."""
    for module in model.modules():
        if isinstance(module, FusedMap):
            module.queries = nn.Parameter(module.queries.detach().to(dtype), requires_grad=False)
