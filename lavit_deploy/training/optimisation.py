"""The loss, the optimiser's groups, the learning rate and the averaged weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lavit_deploy.model.lavit import LaViT
from lavit_deploy.model.losses import dp_loss
from lavit_deploy.training.recipe import Recipe

_Tensors = tuple[Tensor, ...] | list[Tensor]


class Losses(NamedTuple):
    """Scalars of one batch.

    Attributes:
        total: what is minimised.
        classification: cross-entropy.
        diagonality: DP loss, before its weight.
    """

    total: Tensor
    classification: Tensor
    diagonality: Tensor


class Objective(nn.Module):
    """Eq. 10: cross-entropy plus the weighted DP loss of every LA layer.

    A module around the model, because DistributedDataParallel follows `forward` alone and the loss
    needs the scores too.
    """

    def __init__(self, model: LaViT, dp_weight: float) -> None:
        super().__init__()
        self.model = model
        self.dp_weight = dp_weight

    def forward(self, images: Tensor, targets: Tensor) -> Losses:
        """Losses of one batch.

        Args:
            images: normalised [B, C, H, W].
            targets: class probabilities [B, K].
        """
        logits, scores = self.model.forward_with_scores(images)
        classification = F.cross_entropy(logits.float(), targets)
        if self.dp_weight == 0:  # still measured, but outside of the gradient
            with torch.no_grad():
                diagonality = dp_loss(scores, self.model.config)
            return Losses(classification, classification.detach(), diagonality)
        diagonality = dp_loss(scores, self.model.config)
        total = classification + self.dp_weight * diagonality
        return Losses(total, classification.detach(), diagonality.detach())


def parameter_groups(model: LaViT, weight_decay: float) -> list[dict[str, object]]:
    """Parameters that decay, and those that do not.

    Biases, norms, LayerScale and the class token do not, as usual; neither do the LA maps: decay
    pulls towards zero, and Theta and Psi start from, and are kept near, the identity.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_la_map = ".theta." in name or ".psi." in name
        is_plain = parameter.ndim <= 1 or name.endswith("class_token")
        (kept if is_la_map or is_plain else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]


def learning_rate_share(recipe: Recipe, steps_per_epoch: int) -> Callable[[int], float]:
    """Share of the peak learning rate at each step: linear warm-up, then a cosine.

    The last step of the training has `final_lr_share`.
    """
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    last = max(recipe.epochs * steps_per_epoch - 1, warmup + 1)

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = min((step - warmup) / (last - warmup), 1.0)
        cosine = (1.0 + math.cos(math.pi * progress)) / 2.0
        return recipe.final_lr_share + (1.0 - recipe.final_lr_share) * cosine

    return share


def averaged(model: LaViT, recipe: Recipe, steps_per_epoch: int) -> AveragedModel:
    """An exponential moving average of the weights and of BatchNorm's statistics.

    The decay grows with the number of averaged steps n as (1 + n) / (10 + n), up to the recipe's:
    the first, random weights are forgotten soon.
    """
    window = max(recipe.ema_epochs * steps_per_epoch, 1.0)
    longest = 1.0 - 1.0 / window

    def average(mean: _Tensors, current: _Tensors, count: Tensor | int) -> None:
        number = float(count)
        decay = min(longest, (1.0 + number) / (10.0 + number))
        get_ema_multi_avg_fn(decay)(mean, current, count)  # type: ignore[no-untyped-call]

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)
