"""The lateness is the 95th percentile of the last excesses, by its closed form."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavit_deploy.serving.batching.lateness import LatenessQuantile


def test_there_is_none_before_an_answer():
    assert LatenessQuantile().seconds == 0


def test_of_a_hundred_answers_five_may_take_longer():
    lateness = LatenessQuantile()
    for number in range(100, 0, -1):
        lateness.observe(number, predicted=0)
    assert lateness.seconds == 95


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=300))
def test_it_covers_95_percent_of_the_last_128_and_no_smaller_one_does(excesses):
    lateness = LatenessQuantile(memory=128)
    for excess in excesses:
        lateness.observe(5 + excess, predicted=5)
    last = [(5 + excess) - 5 for excess in excesses[-128:]]
    needed = math.ceil(0.95 * len(last))
    assert sum(item <= lateness.seconds for item in last) >= needed
    assert sum(item < lateness.seconds for item in last) < needed


def test_a_stall_is_forgotten():
    lateness = LatenessQuantile(memory=128)
    for _ in range(20):
        lateness.observe(60, predicted=1)
    for _ in range(128):
        lateness.observe(1.5, predicted=1)
    assert lateness.seconds == pytest.approx(0.5)


def test_unless_told_otherwise_the_last_512_answers_count():
    lateness = LatenessQuantile()
    for excess in [9.0] * 26 + [1.0] * 486:  # 26 of 512 are more than 5 %
        lateness.observe(excess, predicted=0)
    assert lateness.seconds == 9.0
    lateness.observe(1.0, predicted=0)  # the oldest is forgotten: 25 of 512 are less
    assert lateness.seconds == 1.0
