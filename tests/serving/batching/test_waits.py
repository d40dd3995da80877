"""Predicted waits against sums that can be done by hand."""

import pytest

from lavit_deploy.serving.batching.waits import WaitPredictor


@pytest.fixture
def waits():
    """A picture takes 1 s, a full batch of 4 takes 2.5 s; between them lies a line."""
    made = WaitPredictor(max_batch=4)
    made.batches.measured(1, 1.0)
    made.batches.measured(4, 2.5)
    return made


@pytest.mark.parametrize(
    ("count", "accepted", "instances", "seconds"),
    [
        (1, 0, 1, 1.0),
        (2, 0, 1, 1.5),
        (1, 3, 1, 2.5),  # it fills the batch
        (1, 4, 1, 3.5),
        (4, 8, 1, 7.5),
        (4, 8, 2, 5.0),  # two batches beside each other, and one more
        (4, 4, 2, 2.5),
        (1, 4, 3, 2.5),  # the lone one runs beside the full batch
        (1, 3, 0, 2.5),  # all broken: as if one worked, for it is opened again
    ],
)
def test_batches_ahead_are_those_of_everything_accepted(waits, count, accepted, instances, seconds):
    found = waits.batches_ahead(count, accepted=accepted, instances=instances)
    assert found == pytest.approx(seconds)


def test_load_lengthens_the_wait_behind_others_and_not_that_of_the_first(waits):
    for _ in range(100):
        waits.batches.observed(4, 5.0)  # twice what was measured
    assert waits.batches_ahead(1, accepted=3, instances=1) == pytest.approx(5.0)
    assert waits.batches_ahead(1, accepted=0, instances=1) == 1.0
    assert waits.of_one_batch(1) == 1.0
    assert waits.of_one_batch(4) == 2.5


def test_what_answers_took_longer_than_their_batches_is_added_behind_others(waits):
    assert waits.until_answer(2.0, accepted=1) == 2.0
    waits.answered(3.25, predicted=3.0)
    assert waits.until_answer(2.0, accepted=1) == 2.25
    assert waits.until_answer(2.0, accepted=0) == 2.0  # nothing is ahead that could be late


def test_answers_that_came_early_shorten_the_wait_but_not_below_none(waits):
    waits.answered(1.0, predicted=2.5)
    assert waits.until_answer(2.0, accepted=1) == 0.5
    assert waits.until_answer(1.0, accepted=1) == 0.0
