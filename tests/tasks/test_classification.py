"""Classification: logits [K] are read as probabilities and answered with the labels."""

import numpy as np
import pytest

from lavit_deploy.common.errors import InferenceError
from lavit_deploy.manifest import Confidence
from lavit_deploy.tasks.classification import CLASSIFICATION, ClassificationTask

LABELS = ("cat", "dog", "owl")


def test_an_answer_names_the_most_likely_first():
    logits = np.log(np.array([1, 6, 3], dtype=np.float32))
    answer = CLASSIFICATION.answer(CLASSIFICATION.read(logits, 2), LABELS)
    assert [(item.label, item.index) for item in answer.predictions] == [("dog", 1), ("owl", 2)]
    assert [item.probability for item in answer.predictions] == pytest.approx([0.6, 0.3])


def test_more_entries_than_classes_are_all_of_them():
    assert len(CLASSIFICATION.read(np.zeros(3, dtype=np.float32), 5).classes) == 3


@pytest.mark.parametrize("output", [np.zeros(4), np.zeros((1, 3)), np.array([0, np.nan, 0])])
def test_what_is_not_finite_logits_is_refused(output):
    with pytest.raises(InferenceError, match="no usable numbers"):
        CLASSIFICATION.check(output, LABELS)


def test_a_temperature_changes_probabilities_and_no_class():
    task = ClassificationTask(confidence(temperature=2.0))
    logits = 2 * np.log(np.array([1, 6, 3], dtype=np.float32))
    answer = task.answer(task.read(logits, 3), LABELS)
    assert [item.index for item in answer.predictions] == [1, 2, 0]
    assert [item.probability for item in answer.predictions] == pytest.approx([0.6, 0.3, 0.1])
    assert answer.unknown is None


@pytest.mark.parametrize(("shift", "unknown"), [(0.0, False), (-0.01, True)])
def test_a_picture_is_unknown_below_the_threshold(shift, unknown):
    task = ClassificationTask(confidence(unknown_below=np.log(3.0)))
    logits = np.full(3, shift, dtype=np.float32)  # log-sum-exp log(3) + shift
    assert task.answer(task.read(logits, 1), LABELS).unknown is unknown


def confidence(temperature=1.0, unknown_below=None):
    return Confidence(
        temperature=temperature,
        unknown_below=unknown_below,
        max_refused=0.05,
        pictures=200,
        source="test",
        error_before=0.0,
        error=0.0,
        likelihood_before=0.0,
        likelihood=0.0,
        bins_before=(),
        bins=(),
    )
