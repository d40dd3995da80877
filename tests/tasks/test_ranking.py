"""Softmax and order against their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavit_deploy.common.errors import InferenceError
from lavit_deploy.tasks.ranking import check_logits, rank

LOGITS = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=50)


@given(values=LOGITS, data=st.data())
def test_the_best_classes_by_softmax_come_in_order(values, data):
    count = data.draw(st.integers(1, len(values)))
    found = rank(np.array(values, dtype=np.float32), count)
    order = sorted(range(len(values)), key=lambda index: (-values[index], index))
    weights = [math.exp(value - max(values)) for value in values]
    # Logits that differ may have equal probabilities, where both are next to nothing.
    assert [values[index] for index, _ in found] == pytest.approx(
        [values[index] for index in order[:count]], abs=1e-5
    )
    for index, probability in found:
        # Two sums of at most fifty positive doubles.
        assert probability == pytest.approx(weights[index] / sum(weights), rel=1e-12)


def test_equal_classes_come_in_the_order_of_the_model():
    found = rank(np.array([1, 2, 2, 1], dtype=np.float32), 4)
    assert [index for index, _ in found] == [1, 2, 0, 3]


def test_large_logits_do_not_overflow():
    (best, second) = rank(np.array([3e38, -3e38], dtype=np.float32), 2)
    assert (best, second) == ((0, 1.0), (1, 0.0))


@pytest.mark.parametrize("bad", [[1, 2], [1, 2, 3, 4], [1, 2, np.nan], [np.inf, 2, 3]])
def test_what_is_no_answer_is_refused(bad):
    with pytest.raises(InferenceError, match="no usable numbers"):
        check_logits(np.array(bad, dtype=np.float32), 3)


def test_finite_numbers_for_every_class_are_an_answer():
    check_logits(np.zeros(3, dtype=np.float32), 3)
