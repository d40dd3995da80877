import pytest


def test_a_runner_is_closed_when_its_block_ends_however_it_ends(scripted):
    made = scripted("a")
    with made as runner:
        assert runner is made
        assert not runner.closed
    assert runner.closed
    failing = scripted("b")
    with pytest.raises(ValueError, match="inside"), failing:
        raise ValueError("inside")
    assert failing.closed


def test_a_runner_that_does_not_tell_its_memory_says_none(scripted):
    assert scripted("a").peak_memory() is None
