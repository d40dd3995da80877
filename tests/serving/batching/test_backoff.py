"""Delays against their closed form."""

from hypothesis import given
from hypothesis import strategies as st

from lavit_deploy.serving.batching.backoff import Backoff


@given(first=st.floats(1e-3, 10), longest=st.floats(1e-3, 100), attempts=st.integers(1, 40))
def test_delays_double_up_to_the_longest(first, longest, attempts):
    backoff = Backoff(first, longest)
    delays = [backoff.delay() for _ in range(attempts)]
    assert delays == [min(first * 2**n, longest) for n in range(attempts)]  # powers of 2 are exact


def test_a_success_begins_again():
    backoff = Backoff(1.0, 8.0)
    assert [backoff.delay() for _ in range(5)] == [1, 2, 4, 8, 8]
    backoff.reset()
    assert backoff.delay() == 1


def test_unless_told_otherwise_it_begins_with_half_a_second_and_ends_with_a_minute():
    """As docs/operations.md says of workers."""
    backoff = Backoff()
    assert [backoff.delay() for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
