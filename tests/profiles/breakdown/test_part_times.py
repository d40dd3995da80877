import pytest

from lavit_deploy.profiles.breakdown.part_times import OUTSIDE, CallTimes, time_by_part
from lavit_deploy.profiles.counting.parts import NOWHERE, Place

MLP, HEAD = Place("stage 2", "mlp"), Place("head", "head")
PLACES = {"a": MLP, "b": MLP, "c": HEAD, "d": NOWHERE}


def test_times_of_one_place_are_added_within_a_call_and_are_medians_over_calls():
    calls = [CallTimes({"a": 0.001 * n, "b": 0.001, "c": 0.002}, 0.01) for n in (1, 2, 9)]
    split = time_by_part(calls, PLACES, method="by hand", batch=4)
    assert [(cell.stage, cell.part) for cell in split.cells] == [MLP, HEAD]
    assert [cell.milliseconds for cell in split.cells] == pytest.approx([3.0, 2.0])
    assert (split.batch, split.calls, split.total_ms) == (4, 3, pytest.approx(10.0))


def test_what_has_no_place_is_stated_and_named_largest_first():
    split = time_by_part(
        [CallTimes({"a": 0.004, "d": 0.001, "stray": 0.002}, 0.010)], PLACES, method="", batch=1
    )
    assert split.unattributed_ms == pytest.approx(6.0)
    assert split.unattributed_share == pytest.approx(0.6)
    assert split.unattributed == (OUTSIDE, "stray", "d")


def test_something_that_did_not_run_in_most_calls_takes_no_time():
    calls = [CallTimes({"a": 0.001}, 0.001), CallTimes({}, 0.001), CallTimes({}, 0.001)]
    assert time_by_part(calls, PLACES, method="", batch=1).cells[0].milliseconds == 0.0
