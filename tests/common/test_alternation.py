"""Turns begin on idle cores, are as many as asked for, and end with the budget."""

import threading
import time
from functools import partial
from itertools import groupby

import pytest

from lavit_deploy.common.alternation import TURN, TURNS, WARM_UP, alternate, median_ms, settle


def spin(seconds):
    """Keep a core busy for so long, in a thread."""
    end = time.perf_counter() + seconds

    def work():
        while time.perf_counter() < end:
            pass

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_it_waits_until_threads_are_idle():
    thread = spin(0.15)
    settle()
    assert not thread.is_alive()
    thread.join()


def test_it_does_not_wait_for_ever():
    thread = spin(3.0)
    begun = time.perf_counter()
    settle()
    assert thread.is_alive()
    assert time.perf_counter() - begun < 2.0
    thread.join()


@pytest.mark.parametrize("runs", [1, 4, 30])
@pytest.mark.parametrize("sleep", [0.0, 0.015])
def test_calls_are_made_in_turns(runs, sleep):
    made = []

    def call(name):
        made.append(name)
        time.sleep(sleep)

    calls = {name: partial(call, name) for name in "AB"}
    seconds = alternate(calls, runs=runs, budget_seconds=60)
    assert made[: 2 * WARM_UP] == [*"A" * WARM_UP, *"B" * WARM_UP]
    turns = [(name, len(list(group))) for name, group in groupby(made[2 * WARM_UP :])]
    for name in "AB":
        lengths = [length for whose, length in turns if whose == name]
        assert sum(lengths) - len(lengths) == len(seconds[name]) >= runs  # one of each not counted
        assert min(lengths) > TURN
        assert len(lengths) >= min(TURNS, -(-runs // TURN))
    assert min(map(min, seconds.values())) >= sleep


def test_no_round_begins_after_the_budget_but_the_first():
    seconds = alternate({"A": lambda: time.sleep(0.01)}, runs=1000, budget_seconds=0)
    assert len(seconds["A"]) == TURN
    assert min(seconds["A"]) >= 0.01


def test_what_is_reported_is_the_median():
    assert median_ms([0.003, 0.001, 0.1]) == pytest.approx(3)
