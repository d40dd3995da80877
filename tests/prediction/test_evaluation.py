"""What labels say: against closed forms, and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from lavit_deploy.prediction.evaluation import (
    draw,
    evaluate,
    wilson_interval,
)

CLASSES = ("a", "b", "c")


def record(label, answer, probability=0.9, second="c"):
    predictions = [
        {"label": name, "index": CLASSES.index(name), "probability": share}
        for name, share in ((answer, probability), (second, 1 - probability))
    ]
    return {"picture": "x", "status": "ok", "label": label, "predictions": predictions}


@given(st.lists(st.tuples(st.sampled_from(CLASSES), st.sampled_from(CLASSES)), min_size=1))
def test_tables_are_those_of_scikit_learn(pairs):
    found = evaluate([record(label, answer) for label, answer in pairs], CLASSES)
    labels, answers = zip(*pairs, strict=True)
    np.testing.assert_array_equal(
        found.confusion, confusion_matrix(labels, answers, labels=CLASSES)
    )
    precision, recall, _, support = precision_recall_fscore_support(
        labels, answers, labels=CLASSES, zero_division=np.nan
    )
    as_floats = [
        [np.nan if value is None else value for value in (item.precision, item.recall)]
        for item in found.by_class
    ]
    np.testing.assert_allclose(as_floats, np.stack([precision, recall], axis=1))
    assert [item.pictures for item in found.by_class] == support.tolist()


def test_what_cannot_be_counted_is_named_apart():
    records = [
        record("a", "a"),
        record("zebra", "a"),
        {"picture": "x", "status": "error", "label": "b", "error": "torn"},
        {"picture": "x", "status": "ok", "predictions": []},
    ]
    found = evaluate(records, CLASSES)
    assert (found.pictures, found.accuracy) == (1, 1.0)
    assert found.unknown_labels == {"zebra": 1}
    assert found.failed == 1
    assert evaluate(records[1:], CLASSES) is None


def test_top_5_needs_as_many_answers():
    two = [record("c", "a", second="c")]
    assert evaluate(two, CLASSES).top_5 is None  # three classes, two kept
    assert evaluate([record("c", "a", second="c")] * 2, ("a", "c")).top_5 == 1.0


def test_the_interval_is_wilson_s():
    # Newcombe 1998, table I: 81 of 263, and 0 of 20.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_the_picture_is_drawn(tmp_path):
    found = evaluate([record("a", "a"), record("b", "c", 0.6)], CLASSES)
    draw(found, CLASSES, tmp_path / "e.png")
    assert (tmp_path / "e.png").read_bytes().startswith(b"\x89PNG")
