"""Which sizes are padded, for timings whose best choice is plain."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavit_deploy.manifest import BatchTiming
from lavit_deploy.serving.batching.padding import PaddedSizes

MEASURED = st.dictionaries(st.integers(1, 16), st.floats(0.1, 100), max_size=6)


def test_without_measurements_nothing_is_padded_but_to_the_smallest_batch():
    assert [PaddedSizes(3, 8).padded(size) for size in range(1, 9)] == [3, 3, 3, 4, 5, 6, 7, 8]
    assert PaddedSizes(3, 8).to_warm_up() == [3, 8]


@given(slope=st.floats(0.01, 10), base=st.floats(0, 100), sizes=st.sets(st.integers(1, 32)))
def test_where_larger_batches_take_longer_nothing_is_padded(slope, base, sizes):
    padding = PaddedSizes(1, 32, {size: base + slope * size for size in sizes})
    assert [padding.padded(size) for size in range(1, 33)] == list(range(1, 33))


def test_a_size_that_is_slower_than_a_larger_one_is_padded_to_it():
    padding = PaddedSizes(1, 8, {1: 2.0, 3: 9.0, 4: 5.0, 8: 8.0})
    # 3 takes 9 ms and 4 takes 5; 5 to 7 take at least what 4 does, and 8 takes more than that.
    assert [padding.padded(size) for size in range(1, 9)] == [1, 2, 4, 4, 5, 6, 7, 8]
    assert padding.to_warm_up() == [1, 4, 8]


def test_the_fastest_larger_size_is_taken_and_of_equals_the_smallest():
    padding = PaddedSizes(1, 8, {1: 9.0, 2: 5.0, 4: 3.0, 8: 3.0})
    assert [padding.padded(size) for size in range(1, 9)] == [4, 4, 4, 4, 5, 6, 7, 8]


def test_a_gain_within_the_noise_is_none():
    assert PaddedSizes(1, 8, {1: 10.0, 8: 9.6}).padded(1) == 1
    assert PaddedSizes(1, 8, {1: 10.0, 8: 9.4}).padded(1) == 8
    assert PaddedSizes(1, 8, {1: 20.0, 8: 19.0}).padded(1) == 1  # 95 % of it is not less than that


def test_no_size_above_the_largest_batch_is_padded_to():
    assert PaddedSizes(1, 4, {1: 10.0, 8: 1.0}).padded(1) == 1


@given(milliseconds=MEASURED, maximum=st.integers(1, 16), minimum=st.integers(1, 4))
def test_padding_never_shrinks_never_exceeds_and_is_only_where_it_was_measured_faster(
    milliseconds, maximum, minimum
):
    padding = PaddedSizes(minimum, max(minimum, maximum), milliseconds)
    for size in range(1, padding.maximum + 1):
        padded = padding.padded(size)
        assert max(size, minimum) <= padded <= padding.maximum
        if padded != max(size, minimum):
            assert padded in padding.to_warm_up()
            below = max(known for known in milliseconds if known <= max(size, minimum))
            assert milliseconds[padded] < milliseconds[below]


@pytest.mark.parametrize(("threads", "padded"), [(None, 1), (2, 4)])
def test_only_timings_with_the_same_threads_count(threads, padded):
    def timing(batch, milliseconds, threads):
        return BatchTiming(
            batch=batch, median_ms=milliseconds, images_per_second=1.0, runs=3, threads=threads
        )

    timings = [timing(1, 1.0, None), timing(4, 3.0, None), timing(1, 9.0, 2), timing(4, 3.0, 2)]
    assert PaddedSizes.measured(1, 8, timings, threads).padded(1) == padded
