import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavit_deploy.profiles.timing import intervals


def noisy(generator, turns, typical=1.0):
    """Calls whose median is `typical`, skewed, and alike within a turn."""
    shared = generator.normal(0, 0.1, (turns, 1))
    return typical * np.exp(shared + generator.normal(0, 0.05, (turns, 3)))


@given(st.integers(6, 400))
def test_the_order_statistics_cover_the_median_and_no_tighter_ones_would(turns):
    rank = intervals._rank(turns)
    miss = [2 * sum(math.comb(turns, i) for i in range(k)) / 2**turns for k in (rank, rank + 1)]
    assert miss[0] <= 0.05 < miss[1]


@pytest.mark.parametrize("turns", [6, 10, 25])
def test_an_interval_covers_the_true_latency_as_often_as_it_claims(turns):
    generator = np.random.default_rng(1)
    found = [intervals.latency(noisy(generator, turns)) for _ in range(2000)]
    covered = np.mean([one.low <= 1.0 <= one.high for one in found])
    assert covered >= 0.94  # 95 % or more by construction; 2000 draws leave a deviation of 0.5 %


def test_equal_models_are_seldom_called_different():
    generator = np.random.default_rng(2)
    decisions = [
        intervals.ratio(noisy(generator, 12), noisy(generator, 12)).decides for _ in range(1000)
    ]
    assert np.mean(decisions) <= 0.06  # at most 5 %, with a deviation of 0.7 % over 1000 draws


def test_a_drift_that_both_models_share_does_not_hide_a_difference():
    generator = np.random.default_rng(3)
    drift = np.linspace(1, 3, 30)[:, None]  # the machine slows to a third
    slow = drift * 1.05 * np.exp(generator.normal(0, 0.01, (30, 3)))
    fast = drift * np.exp(generator.normal(0, 0.01, (30, 3)))
    found = intervals.ratio(slow, fast)
    assert found.decides
    assert found.value == pytest.approx(1.05, abs=0.01)
    apart = intervals.latency(slow), intervals.latency(fast)
    assert apart[0].low < apart[1].high  # each one's own interval says nothing about it


def test_latency_of_known_turns():
    found = intervals.latency(np.array([[1.0, 2, 9], [5, 4, 3], [0, 6, 7]]))
    assert (found.value, found.low, found.high) == (4.0, None, None)


def test_six_turns_give_their_extremes():
    turns = np.array([[3.0], [1], [4], [1.5], [9], [2.6]])
    assert intervals.latency(turns) == intervals.Interval(2.8, 1.0, 9.0)


def test_without_an_interval_nothing_is_decided():
    assert not intervals.ratio(np.full((5, 3), 2.0), np.full((5, 3), 1.0)).decides
    assert intervals.ratio(np.full((6, 3), 2.0), np.full((6, 3), 1.0)).decides


def test_surplus_rounds_of_one_model_are_left_out():
    longer = np.array([[2.0], [4.0], [100.0]])
    assert intervals.ratio(longer, np.array([[1.0], [2.0]])).value == 2.0


@pytest.mark.parametrize(("percent", "fewest"), [(95, 20), (99, 100)])
def test_percentiles_need_enough_calls(percent, fewest):
    calls = np.arange(float(fewest))
    assert intervals.percentile(calls[:-1].reshape(1, -1), percent) is None
    found = intervals.percentile(calls.reshape(1, -1), percent)
    assert found == pytest.approx((fewest - 1) * percent / 100)
