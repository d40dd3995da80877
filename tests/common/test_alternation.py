"""Turns begin on idle cores, are as many as asked for, and end with the budget."""

import threading
import time
from functools import partial
from itertools import groupby

import pytest

from lavit_deploy.common import alternation
from lavit_deploy.common.alternation import TURN, TURNS, WARM_UP, alternate, median_ms, settle


class Machine:
    """A clock, and a process whose threads keep so many cores busy for so long.

    A real thread that spins may be kept waiting by other processes, and then looks idle.
    """

    def __init__(self, *, cores, seconds):
        self.now = 0.0
        self._cores, self._busy = cores, seconds

    def perf_counter(self):
        return self.now

    def process_time(self):
        return self._cores * min(self.now, self._busy)

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def settled(monkeypatch):
    """How long `settle` waits where threads keep cores busy for so long."""

    def wait(*, cores, seconds):
        machine = Machine(cores=cores, seconds=seconds)
        monkeypatch.setattr(alternation, "time", machine)
        settle()
        return machine.now

    return wait


@pytest.mark.parametrize("cores", [0.5, 1.0, 8.0])
@pytest.mark.parametrize("seconds", [0.003, 0.045, 0.15])
def test_it_waits_until_threads_are_idle(settled, cores, seconds):
    waited = settled(cores=cores, seconds=seconds)
    # A look is 12 ms; the one in which they end may still see them.
    assert seconds <= waited <= seconds + 2 * 0.012 + 1e-9


def test_an_idle_process_is_looked_at_once(settled):
    assert settled(cores=0.0, seconds=9.0) == pytest.approx(0.012)
    assert settled(cores=0.1, seconds=9.0) == pytest.approx(0.012)  # it looks, which is work


def test_it_does_not_wait_for_ever(settled):
    assert 0.5 <= settled(cores=1.0, seconds=9.0) <= 0.5 + 0.012 + 1e-9


def test_a_thread_that_spins_counts_against_the_process():
    """What the looks rest on: the time of a process is that of all its threads."""
    stop, used = threading.Event(), time.process_time()

    def spin():
        while not stop.is_set():
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    while time.process_time() - used < 0.05:  # however long another process keeps it waiting
        time.sleep(0.001)
    stop.set()
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
