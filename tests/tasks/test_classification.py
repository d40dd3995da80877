"""Classification: logits [K] are read as probabilities and answered with the labels."""

import numpy as np
import pytest

from lavit_deploy.common.errors import InferenceError
from lavit_deploy.tasks.classification import CLASSIFICATION

LABELS = ("cat", "dog", "owl")


def test_an_answer_names_the_most_likely_first():
    logits = np.log(np.array([1, 6, 3], dtype=np.float32))
    answer = CLASSIFICATION.answer(CLASSIFICATION.read(logits, 2), LABELS)
    assert [(item.label, item.index) for item in answer.predictions] == [("dog", 1), ("owl", 2)]
    assert [item.probability for item in answer.predictions] == pytest.approx([0.6, 0.3])


def test_more_entries_than_classes_are_all_of_them():
    assert len(CLASSIFICATION.read(np.zeros(3, dtype=np.float32), 5)) == 3


@pytest.mark.parametrize("output", [np.zeros(4), np.zeros((1, 3)), np.array([0, np.nan, 0])])
def test_what_is_not_finite_logits_is_refused(output):
    with pytest.raises(InferenceError, match="no usable numbers"):
        CLASSIFICATION.check(output, LABELS)
