"""`fold`: a trained LaViT to its `FoldedLaViT`, every step checked in float64."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import nn

from lavit_deploy.common.errors import ExportError
from lavit_deploy.folding.cost import Cost, cost_of
from lavit_deploy.folding.modules.model import FoldedLaViT
from lavit_deploy.folding.rewrite import Rewrite, RewriteResult, history, run
from lavit_deploy.folding.rewrites.absorbed_projections import AbsorbProjections
from lavit_deploy.folding.rewrites.attention_biases import FoldAttentionBiases
from lavit_deploy.folding.rewrites.attention_residual import FoldAttentionResiduals
from lavit_deploy.folding.rewrites.layer_norms import FoldLayerNorms
from lavit_deploy.folding.rewrites.less_attention_chain import CollapseChains
from lavit_deploy.folding.rewrites.normalisation import FoldNormalisation
from lavit_deploy.folding.rewrites.patch_products import ProductsFromConvolutions
from lavit_deploy.folding.rewrites.query_scale import FoldQueryScale
from lavit_deploy.folding.rewrites.stacked_projections import StackProjections
from lavit_deploy.folding.unfolded import unfolded
from lavit_deploy.model.lavit import LaViT
from lavit_deploy.preprocess import Preprocess

TOLERANCE = 1e-8
"""Largest allowed relative difference of the probe's logits. Identities leave some 1e-13 in
float64; a chain of maps that amplifies scores a thousandfold may raise that, and float32, which
the model is cast to afterwards, resolves no more than 6e-8."""

_PROBE_SEED = 0


@dataclass(frozen=True)
class FoldReport:
    """What folding did.

    Attributes:
        before: cost of the model as the paper writes it, normalisation included.
        after: cost of the folded model.
        rewrites: every rewrite in the order in which it ran.
        difference: largest difference of a logit of the probe, over the largest logit, float64.
    """

    before: Cost
    after: Cost
    rewrites: tuple[RewriteResult, ...]
    difference: float


Folded_co = TypeVar("Folded_co", bound=nn.Module, covariant=True)


class Folding(NamedTuple, Generic[Folded_co]):
    """A folded model and the account of how it came about."""

    model: Folded_co
    report: FoldReport


def default_rewrites() -> tuple[Rewrite, ...]:
    """Every rewrite, in an order in which each finds what it needs."""
    return (
        FoldNormalisation(),
        FoldLayerNorms(),
        FoldQueryScale(),
        FoldAttentionBiases(),
        FoldAttentionResiduals(),
        CollapseChains(),
        AbsorbProjections(),
        StackProjections(),
        ProductsFromConvolutions(),
    )


def fold(
    model: LaViT,
    preprocess: Preprocess,
    *,
    rewrites: Sequence[Rewrite] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Folding[FoldedLaViT]:
    """Rewrite a trained model into an equal one that is cheaper to run.

    All rewrites compute in float64; the weights are rounded once, at the end, so the result is as
    near to the exact function as the original is.

    Args:
        model: the trained model; it is not changed.
        preprocess: mean and std that it was trained with; they become part of the weights.
        rewrites: what to apply, in order; `default_rewrites()` if None.
        dtype: type of the result's weights.

    Raises:
        ExportError: a rewrite's contract was broken; names the rewrites that ran before it.
    """
    rewrites = default_rewrites() if rewrites is None else rewrites
    folded = unfolded(model, preprocess)
    before = cost_of(folded)
    results = run(rewrites, folded)
    witness = _Witness(model, preprocess)
    difference = witness.difference(folded)
    if not difference <= TOLERANCE:  # NaN fails too
        raise ExportError(_first_fault(model, preprocess, rewrites, witness))
    report = FoldReport(before, cost_of(folded), results, difference)
    return Folding(folded.to(dtype), report)


class _Witness:
    """What the original model answers, in float64, for one picture of noise."""

    def __init__(self, model: LaViT, preprocess: Preprocess) -> None:
        generator = torch.Generator().manual_seed(_PROBE_SEED)
        size = (1, *model.config.image_size, model.config.in_channels)
        self.images = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
        mean = torch.tensor(preprocess.mean, dtype=torch.float64)[:, None, None]
        std = torch.tensor(preprocess.std, dtype=torch.float64)[:, None, None]
        original = copy.deepcopy(model).double().eval()
        with torch.inference_mode():
            # [B, H, W, C] -> [B, C, H, W]
            scaled = self.images.permute(0, 3, 1, 2).double() / 255.0
            self.logits = original((scaled - mean) / std)

    def difference(self, folded: FoldedLaViT) -> float:
        """Largest difference of a logit from the original's, over the largest logit."""
        with torch.inference_mode():
            found = folded(self.images)
        return ((found - self.logits).abs().max() / self.logits.abs().max()).item()


def _first_fault(
    model: LaViT, preprocess: Preprocess, rewrites: Sequence[Rewrite], witness: _Witness
) -> str:
    """Fold again with a check after every rewrite, and say which one moved the logits."""
    folded = unfolded(model, preprocess)
    difference = witness.difference(folded)
    if not difference <= TOLERANCE:
        return f"the unfolded form moved logits by {difference:.2g} of their scale"
    results: list[RewriteResult] = []
    for rewrite in rewrites:
        made = run([rewrite], folded)
        difference = witness.difference(folded)
        if not difference <= TOLERANCE:
            return (
                f"{history(rewrite, results)}: logits moved by {difference:.2g} of their scale, "
                f"allowed {TOLERANCE:.0e}; it is no identity on these weights"
            )
        results += made
    return "folding is not reproducible: the check passes after every rewrite, not at the end"
