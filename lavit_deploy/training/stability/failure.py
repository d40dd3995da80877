"""Signs that a training has failed, and what to try. Judged from numbers alone.

A training that has collapsed answers every picture alike: its loss is that of the best constant
answer, ln K for K equally frequent classes, and goes nowhere. Its gradient is almost zero, so it
never recovers. `docs/reports/training-stability` shows how it comes to that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from lavit_deploy.training.recipe import Recipe

CONSTANT_LOSS_SHARE = 0.99
"""From this share of the constant answer's loss on, nothing is learnt. Healthy first epochs of the
recipes lie below 0.95 of it once the warm-up is over."""

LEARNT_SHARE = 0.97
"""A loss below this share of the constant answer's shows that something had been learnt."""

ONE_CLASS_SHARE = 0.99
"""From this share of the answers on, one class is the answer to everything."""

FALL_SHARE = 0.5
"""An accuracy below this share of the best one has fallen by more than half."""

DEAD_VARIATION = 1e-4
"""Total variation between pictures, and between queries, below which a map says nothing."""

SCORE_LIMIT = 10.0
"""A limit on attention scores that was measured to help: beyond it a softmax is almost one-hot."""


class Sign(StrEnum):
    """What can be seen; the text is what the user reads."""

    CONSTANT_LOSS = "the loss is that of a constant answer"
    ONE_CLASS = "one class is the answer to every held-out picture"
    FALL = "accuracy has fallen by more than half"
    DEAD_MAPS = "an attention map is the same for all pictures and queries"


def joined_signs(signs: Sequence[Sign], dead_layers: Sequence[str]) -> str:
    """Signs as one line, the dead layers named: how an epoch's row stores them."""
    return "; ".join(
        f"{sign} ({', '.join(dead_layers)})" if sign is Sign.DEAD_MAPS else sign for sign in signs
    )


def signs_in(line: str) -> list[Sign]:
    """The signs that `joined_signs` wrote down."""
    return [sign for sign in Sign if sign in line]


ENDING = frozenset({Sign.CONSTANT_LOSS, Sign.ONE_CLASS, Sign.FALL})
"""Signs that end a training which shows them for long; dead maps alone are only said."""


@dataclass(frozen=True, kw_only=True)
class EpochEvidence:
    """What one epoch shows of the weights that are trained (averaged ones follow late).

    Attributes:
        epoch: 1-based.
        loss: mean cross-entropy of training.
        lowest_loss: lowest of the epochs before, infinite for the first.
        accuracy: top-1 share on the held-out pictures.
        best_accuracy: best of the epochs before, 0 for the first.
        commonest_answer: share of the held-out pictures that have the most frequent answer.
        dead_layers: names of the LA layers whose maps say nothing.
    """

    epoch: int
    loss: float
    lowest_loss: float
    accuracy: float
    best_accuracy: float
    commonest_answer: float
    dead_layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class FailureDetector:
    """Judges epochs, and stretches of steps within them.

    Attributes:
        constant_loss: cross-entropy of the best answer that does not look at the picture.
        chance: accuracy of that answer.
        warmup_epochs: no model has to be better than chance before the warm-up is over.
        grace_epochs: how many epochs in a row may show an ending sign, 0 for any number.
    """

    constant_loss: float
    chance: float
    warmup_epochs: float
    grace_epochs: int

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        labels: Sequence[int],
        held_out_labels: Sequence[int],
        num_classes: int,
        grace_epochs: int,
    ) -> FailureDetector:
        """The detector for a recipe and the labels of its pictures."""
        return cls(
            constant_loss=constant_loss(labels, num_classes, recipe.label_smoothing),
            chance=max(_frequencies(held_out_labels, num_classes)),
            warmup_epochs=recipe.warmup_epochs,
            grace_epochs=grace_epochs,
        )

    def signs(self, seen: EpochEvidence) -> list[Sign]:
        """What an epoch shows, nothing for a healthy one."""
        found = []
        warm = seen.epoch > max(self.warmup_epochs, 1.0)
        if self.is_constant(seen.loss) and (warm or self.has_learnt(seen.lowest_loss)):
            found.append(Sign.CONSTANT_LOSS)
        one_class_is_wrong = self.chance < ONE_CLASS_SHARE * FALL_SHARE
        if warm and one_class_is_wrong and seen.commonest_answer >= ONE_CLASS_SHARE:
            found.append(Sign.ONE_CLASS)
        if seen.best_accuracy > 2 * self.chance and seen.accuracy < FALL_SHARE * seen.best_accuracy:
            found.append(Sign.FALL)
        if warm and seen.dead_layers:
            found.append(Sign.DEAD_MAPS)
        return found

    def is_constant(self, loss: float) -> bool:
        """Whether a mean loss is no better than a constant answer's."""
        return loss >= CONSTANT_LOSS_SHARE * self.constant_loss

    def has_learnt(self, loss: float) -> bool:
        """Whether a mean loss is clearly better than a constant answer's."""
        return loss < LEARNT_SHARE * self.constant_loss

    def has_failed(self, signs_by_epoch: Sequence[Sequence[Sign]]) -> bool:
        """Whether the last epochs all show an ending sign, more than the grace allows."""
        if not self.grace_epochs:
            return False
        last = signs_by_epoch[-self.grace_epochs :]
        return len(last) == self.grace_epochs and all(ENDING.intersection(one) for one in last)


def constant_loss(labels: Sequence[int], num_classes: int, smoothing: float) -> float:
    """Cross-entropy of the best answer that is the same for every picture, nats.

    That answer is the mean of the targets, so its loss is their entropy: ln K where all K classes
    are as frequent, less where some are rare. Mixing pictures leaves the mean as it is.
    """
    mean = [
        share * (1.0 - smoothing) + smoothing / num_classes
        for share in _frequencies(labels, num_classes)
    ]
    return -sum(share * math.log(share) for share in mean if share > 0)


def _frequencies(labels: Sequence[int], num_classes: int) -> list[float]:
    counts = [0] * num_classes
    for label in labels:
        counts[label] += 1
    return [count / len(labels) for count in counts]


def what_to_try(recipe: Recipe) -> str:
    """Changes that keep such a training from failing, the most effective first.

    All of them can be given with --resume. A longer warm-up is none: it was measured to fail as
    often (`docs/reports/training-stability`).
    """
    changes = [f"--lr {recipe.base_lr / 4:.2g} (now {recipe.base_lr:g})"]
    if recipe.dp_weight == 0:
        changes.append("--dp-weight 0.1")
    if not recipe.score_limit:
        changes.append(f"--set score_limit={SCORE_LIMIT:g}")
    if not recipe.clip_norm:
        changes.append("--set clip_norm=1")
    return ", ".join(changes[:-1]) + f" or {changes[-1]}" if len(changes) > 1 else changes[0]
