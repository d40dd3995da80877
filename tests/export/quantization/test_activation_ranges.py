import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lavit_deploy.export.quantization.activation_ranges import LEVELS, METHODS, Histogram


def histogram(values):
    largest = float(np.abs(values).max())
    bins = np.minimum((np.abs(values) / largest * 2048).astype(int), 2047)
    return Histogram(np.bincount(bins, minlength=2048), largest)


def squared_error(values, step):
    levels = np.clip(np.rint(values / step), -LEVELS, LEVELS)
    return float(np.mean((levels * step - values) ** 2))


def test_min_max_reaches_the_largest_value():
    values = np.random.default_rng(0).normal(size=10_000)
    step = histogram(values).step("min-max")
    assert np.isclose(step * LEVELS, np.abs(values).max())


def test_percentile_ignores_a_single_outlier():
    values = np.append(np.random.default_rng(0).normal(size=100_000), 1000.0)
    assert histogram(values).step("percentile") * LEVELS < 10
    assert histogram(values).step("min-max") * LEVELS == 1000


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100), tail=st.integers(1, 10))
def test_mse_is_not_worse_than_min_max(seed, scale, tail):
    values = scale * np.random.default_rng(seed).standard_t(tail, size=20_000)
    mine = histogram(values)
    # 2 %: the method sees values by bins of a 2048th of the largest.
    best = squared_error(values, mine.step("mse"))
    assert best <= 1.02 * squared_error(values, mine.step("min-max"))


def test_an_activation_of_zeros_has_a_positive_step():
    for method in METHODS:
        assert Histogram(np.zeros(2048, dtype=int), 0.0).step(method) > 0
