"""Records are the model's answers, batch by batch, in order."""

import pytest

from lavit_deploy.common.errors import UsageError
from lavit_deploy.prediction.run import Options, Predictor
from lavit_deploy.prediction.sources import Item, open_source


def records(bundle, items, **options):
    with Predictor(bundle, Options(**options)) as predictor:
        return [record for batch in predictor.records(items) for record in batch]


def test_every_picture_has_its_colour_or_its_error(bundle, folder):
    found = records(bundle, open_source(str(folder), labelled=True), batch=4)
    assert len(found) == 10
    for record in found:
        if record["picture"] == "red/torn.png":
            assert record["status"] == "error"
            assert record["label"] == "red"
            assert record["error"]
        else:
            assert record["predictions"][0]["label"] == record["label"]


def test_answers_are_the_same_in_any_batch(bundle, folder):
    source = open_source(str(folder))
    one = records(bundle, source, batch=1, logits=True)
    assert one == records(bundle, source, batch=4, logits=True)
    assert len(one[0]["logits"]) == 3


def test_a_label_by_number_is_the_model_s_class(bundle, folder):
    item = Item("x", folder / "blue" / "0.png", 2)
    (record,) = records(bundle, [item], top_k=1)
    assert record["label"] == "blue"
    assert [entry["label"] for entry in record["predictions"]] == ["blue"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch": 5}, "--batch may be at most 4 for onnx-fp32, given 5"),
        ({"batch": 0}, "--batch must be 1 or more, given 0"),
        ({"top_k": 0}, "--top-k must be 1 or more"),
        ({"features": True, "device": "cuda"}, "features are read on the CPU"),
    ],
)
def test_options_that_cannot_be_are_refused(bundle, options, words):
    with pytest.raises(UsageError, match=words):
        records(bundle, [], **options)
