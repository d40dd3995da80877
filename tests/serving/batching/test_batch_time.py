"""Predicted times against their closed forms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavit_deploy.serving.batching.batch_time import BatchTimeModel

SECONDS = st.floats(1e-4, 10)


def measured(one, full, size=8):
    made = BatchTimeModel()
    made.measured(1, one)
    made.measured(size, full)
    return made


@given(one=SECONDS, full=SECONDS, pictures=st.integers(1, 100))
def test_a_wait_is_full_batches_and_the_rest_on_the_line_between(one, full, pictures):
    count, rest = divmod(pictures, 8)
    expected = count * full + (one + (rest - 1) / 7 * (full - one) if rest else 0)
    # Both are sums of at most a hundred positive doubles.
    assert measured(one, full).seconds(pictures, 8) == pytest.approx(expected, rel=1e-9)


@given(one=SECONDS, full=SECONDS, batches=st.integers(0, 20), instances=st.integers(1, 8))
def test_instances_share_the_batches(one, full, batches, instances):
    made = measured(one, full)
    rounds = [0.0] * instances
    for number in range(batches):
        rounds[number % instances] += full
    assert made.seconds(8 * batches, 8, instances=instances) == pytest.approx(max(rounds))
    rounds[batches % instances] += one  # the lone picture goes where it is first served
    assert made.seconds(8 * batches + 1, 8, instances=instances) == pytest.approx(max(rounds))


def test_nothing_is_predicted_before_a_measurement():
    assert BatchTimeModel().seconds(100, 8) == 0
    made = BatchTimeModel()
    made.observed(8, 5.0)
    assert made.seconds(100, 8) == 0


def test_the_last_measurement_of_a_size_counts_also_after_a_prediction():
    made = measured(1.0, 2.0)
    assert made.seconds(8, 8) == 2.0
    made.measured(8, 4.0)
    assert made.seconds(8, 8) == 4.0
    assert made.seconds(15, 8) == pytest.approx(4.0 + 1.0 + 6 / 7 * 3.0)  # on the new line


def test_the_newest_batch_weighs_a_fifth():
    made = measured(0.01, 0.04)
    made.observed(8, 0.04 * 6)
    assert made.seconds(8, 8) == pytest.approx(0.04 * (1 + 0.2 * 5))
    made.observed(8, 0.04)
    assert made.seconds(8, 8) == pytest.approx(0.04 * (2 - 0.2 * 1))


@given(factor=st.floats(0.1, 20))
def test_predictions_follow_the_load_of_the_machine(factor):
    made = measured(0.01, 0.04)
    for _ in range(100):
        made.observed(8, 0.04 * factor)
    # 0.8 ** 100 of the first factor is left: 2e-10.
    assert made.seconds(16, 8) == pytest.approx(0.08 * factor, rel=1e-6)


def test_a_stall_does_not_make_an_idle_model_look_slow():
    made = measured(0.01, 0.04)
    made.observed(8, 60.0)
    assert made.seconds(1, 8) > 1
    assert made.seconds(1, 8, idle=True) == 0.01
