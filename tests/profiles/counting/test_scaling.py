from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavit_deploy.common.errors import UsageError
from lavit_deploy.profiles.counting.scaling import exponent, grow


@given(
    power=st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 3.0]),
    factor=st.integers(1, 10**6),
    sizes=st.lists(st.integers(2, 64).map(lambda n: 16 * n), min_size=2, max_size=8, unique=True),
)
def test_a_power_of_the_pixels_is_found(power, factor, sizes):
    counts = [factor * size ** (2 * power) for size in sizes]
    # double precision, logarithms of numbers up to 10^24
    assert exponent(sizes, counts) == pytest.approx(power, abs=1e-9)


def test_parts_are_fitted_for_themselves_and_add_up():
    def counts_at(size):
        pixels = size * size
        return {
            "stage 1": Counter(mlp=3 * pixels, attention_scores_values=pixels**2),
            "head": Counter(head=7),
        }

    growth = grow((32, 16, 64, 32), counts_at)
    assert growth.sizes == (16, 32, 64)
    assert [part.part for part in growth.parts] == ["attention_scores_values", "mlp", "head"]
    assert [part.exponent for part in growth.parts] == pytest.approx([2.0, 1.0, 0.0])
    assert growth.total == tuple(3 * s * s + s**4 + 7 for s in growth.sizes)
    assert 1.0 < growth.total_exponent < 2.0


def test_one_size_is_no_growth():
    with pytest.raises(UsageError, match="two different"):
        grow((224, 224), lambda _size: {})
