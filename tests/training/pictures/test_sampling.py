import dataclasses
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavit_deploy.common.errors import UsageError
from lavit_deploy.training.pictures.sampling import epoch_batches, step_seed, steps_per_epoch
from lavit_deploy.training.recipe import Recipe


def recipe(**changes):
    return Recipe(batch_size=8, repeats=1, **changes)


@given(pictures=st.integers(8, 60), epoch=st.integers(0, 5), processes=st.sampled_from([1, 2, 4]))
def test_processes_share_the_batches_that_one_process_has(pictures, epoch, processes):
    whole = epoch_batches(pictures, recipe(), epoch)
    shares = [
        epoch_batches(pictures, recipe(), epoch, rank=rank, processes=processes)
        for rank in range(processes)
    ]
    assert len(whole) == steps_per_epoch(pictures, recipe())
    for step, batch in enumerate(whole):
        together = [share[step] for share in shares]
        assert {len(part) for part in together} == {8 // processes}
        assert sorted(batch) == sorted(sample for part in together for sample in part)


@given(pictures=st.integers(8, 60), repeats=st.integers(1, 4))
def test_a_picture_is_drawn_at_most_as_often_as_the_recipe_repeats(pictures, repeats):
    batches = epoch_batches(pictures, dataclasses.replace(recipe(), repeats=repeats), 0)
    drawn = Counter(sample.picture for batch in batches for sample in batch)
    assert max(drawn.values()) <= repeats
    assert set(drawn) <= set(range(pictures))
    seeds = [sample.seed for batch in batches for sample in batch]
    assert len(set(seeds)) == len(seeds)  # repeated pictures are augmented differently


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {
        str(epoch_batches(40, recipe(seed=seed), epoch)) for seed in (0, 1) for epoch in (0, 1)
    }
    assert len(orders) == 4


def test_every_step_of_every_process_has_a_seed_of_its_own():
    seeds = {step_seed(recipe(), e, s, r) for e in range(3) for s in range(5) for r in range(2)}
    assert len(seeds) == 30


def test_fewer_pictures_than_a_batch_are_refused():
    with pytest.raises(UsageError, match="batch_size is 8, there are 7 training pictures"):
        steps_per_epoch(7, recipe())
