"""Which picture comes when, and its random numbers: pure functions of the seed and the position.

No generator carries state from one step to the next. A training that is interrupted needs only
its position to go on exactly as it would have, whatever the number of loader processes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lavit_deploy.common.errors import UsageError
from lavit_deploy.training.recipe import Recipe


class SampledPicture(NamedTuple):
    """One picture of one batch.

    Attributes:
        picture: number of the picture in its data set.
        seed: of what is random about this occurrence of it.
    """

    picture: int
    seed: int


def steps_per_epoch(pictures: int, recipe: Recipe) -> int:
    """Optimiser steps in an epoch; the last, partial batch is left out.

    Raises:
        UsageError: not even one batch.
    """
    if pictures < recipe.batch_size:
        raise UsageError(
            f"batch_size is {recipe.batch_size}, there are {pictures} training pictures; "
            "choose a smaller --batch-size"
        )
    return pictures // recipe.batch_size


def epoch_batches(
    pictures: int, recipe: Recipe, epoch: int, *, rank: int = 0, processes: int = 1
) -> list[list[SampledPicture]]:
    """One process's share of every batch of an epoch.

    Args:
        pictures: size of the training set.
        recipe: gives batch size, repeats and seed.
        epoch: 0-based.
        rank: 0-based number of this process.
        processes: how many share a batch.

    Returns:
        [steps][batch_size / processes] samples. All processes together see the same batches
        whatever their number.
    """
    random = np.random.default_rng((recipe.seed, epoch))
    steps, size = steps_per_epoch(pictures, recipe), recipe.batch_size
    order = random.permutation(pictures).repeat(recipe.repeats)[: steps * size]
    seeds = random.integers(1 << 63, size=steps * size)
    samples = [
        SampledPicture(int(picture), int(seed)) for picture, seed in zip(order, seeds, strict=True)
    ]
    return [
        samples[start + rank : start + size : processes] for start in range(0, steps * size, size)
    ]


def step_seed(recipe: Recipe, epoch: int, step: int, rank: int) -> int:
    """Seed of everything that is random on one process in one step."""
    sequence = np.random.SeedSequence((recipe.seed, epoch, step, rank))
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)
