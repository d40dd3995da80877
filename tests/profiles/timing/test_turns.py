import itertools

import pytest

from lavit_deploy.profiles.timing import turns
from lavit_deploy.profiles.timing.runner import BatchTooLargeError
from lavit_deploy.profiles.timing.turns import (
    TURN_CALLS,
    BatchTimings,
    TimingPlan,
    batch_curve,
    time_batch,
    warm_up,
)

QUICK = TimingPlan(calls=18, warmup=8)


def test_every_round_gives_each_model_one_turn_of_an_untimed_and_three_timed_calls(scripted):
    log = []
    runners = [scripted(name, log=log) for name in "abc"]
    result = BatchTimings(2)
    time_batch(runners, QUICK, result)
    turns = [(name, len(list(calls))) for name, calls in itertools.groupby(log[3 * 8 :])]
    # The last of one round may be the first of the next: two turns in a row are one group.
    assert sum(count for _, count in turns) == 3 * 6 * (1 + TURN_CALLS)
    per_round = 3 * (1 + TURN_CALLS)
    for start in range(3 * 8, len(log), per_round):
        assert set(log[start : start + per_round : 1 + TURN_CALLS]) == set("abc")
    assert all(runner.batches == [2] for runner in runners)


def test_the_order_within_rounds_changes(scripted):
    log = []
    time_batch([scripted(name, log=log) for name in "abc"], QUICK, BatchTimings(1))
    rounds = [tuple(log[s : s + 12 : 4]) for s in range(24, len(log), 12)]
    assert len(set(rounds)) > 1


def test_the_untimed_call_of_a_turn_is_not_in_the_result(scripted):
    seconds = [1.0] * 8 + [100.0, 1, 2, 3] * 6
    result = BatchTimings(1)
    time_batch([scripted("a", seconds)], QUICK, result)
    assert result.turns["a"] == [[1, 2, 3]] * 6


def test_runs_are_rounded_up_to_whole_turns(scripted):
    result = BatchTimings(1)
    time_batch([scripted("a")], TimingPlan(calls=20), result)
    assert result.of("a").shape == (7, TURN_CALLS)


def test_time_runs_out_but_not_before_the_turns_that_an_interval_needs(scripted, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(turns.time, "monotonic", lambda: float(next(clock)))
    result = BatchTimings(1)
    time_batch([scripted("a")], TimingPlan(calls=3000, seconds=0.5), result)
    assert len(result.of("a")) == 6


def test_progress_never_goes_back_and_ends_at_one(scripted):
    told = []
    time_batch([scripted("a")], QUICK, BatchTimings(1), lambda what, share: told.append(share))
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_warm_up_goes_on_until_two_windows_agree(scripted):
    falling = [10.0, 9, 8, 7, 6, 5, 4, 3, 2, 1.5, 1.2, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    found = warm_up(scripted("a", falling), TimingPlan())
    assert found.settled
    assert found.calls == 18  # the first at which windows [10:14] and [14:18] agree within 5 %


def test_a_model_that_never_settles_is_reported_as_such(scripted, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(turns.time, "monotonic", lambda: float(next(clock)))
    growing = [1.5**call for call in range(200)]
    found = warm_up(scripted("a", growing), TimingPlan(warmup_seconds=100))
    assert (found.calls, found.settled) == (101, False)


def test_warm_up_makes_the_calls_that_were_asked_for_even_if_stable_before(scripted):
    assert warm_up(scripted("a"), TimingPlan(warmup=13)).calls == 13


def test_an_interrupt_keeps_the_turns_that_were_finished(scripted):
    log = []
    steady = scripted("a", log=log)
    stopped = scripted("b", [1.0] * (8 + 2 * 4 + 2) + [KeyboardInterrupt()], log=log)
    result = BatchTimings(1)
    with pytest.raises(KeyboardInterrupt):
        time_batch([steady, stopped], QUICK, result)
    assert result.of("b").shape == (2, TURN_CALLS)
    assert len(result.of("a")) in {2, 3}
    assert result.of("c").shape == (0, TURN_CALLS)


@pytest.mark.parametrize(
    ("largest", "curve"), [(1, [1]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])]
)
def test_the_curve_doubles_up_to_the_largest_batch(largest, curve):
    assert list(batch_curve(largest)) == curve


def test_a_model_that_does_not_fit_leaves_the_others_to_be_timed(scripted):
    small = scripted("a")

    def refuse(batch):
        raise BatchTooLargeError(f"a: a batch of {batch} does not fit")

    small.prepare = refuse
    result = BatchTimings(4)
    time_batch([small, scripted("b")], TimingPlan(calls=18), result)
    assert set(result.turns) == {"b"}
    assert result.refused == {"a": "a: a batch of 4 does not fit"}
