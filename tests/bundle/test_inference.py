"""Bundles in Python: pictures of every kind, in batches, against the mean colour."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from lavit_deploy.bundle.inference import classify, open_runtime
from lavit_deploy.common.errors import BundleError, UnsupportedImageError, UsageError

RED, BLUE = (200, 0, 0), (0, 0, 200)
NAMES = ("red", "green", "blue")


@pytest.fixture
def bundle(write, artifact):
    return write(artifact("onnx-fp32"))


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_every_kind_of_picture_gets_the_same_answer(bundle, tmp_path):
    file = tmp_path / "red.png"
    file.write_bytes(png(RED))
    image = Image.new("RGB", (16, 16), RED)
    kinds = [file, str(file), png(RED), image, np.asarray(image), image.convert("RGBA")]
    answers = classify(bundle, kinds, top_k=3)
    assert len(answers) == 6  # two batches: the artifact takes four at once
    assert len(set(answers)) == 1
    assert answers[0][0][0] == "red"


def test_probabilities_are_the_softmax_of_the_graphs_logits(bundle):
    # The graph's logits are the mean colour itself: exp(0 - 2) and exp(1 - 2) over their sum.
    answer = dict(classify(bundle, Image.new("RGB", (8, 8), (2, 1, 0)), top_k=3))
    total = sum(math.exp(value - 2) for value in (2, 1, 0))
    for name, value in zip(NAMES, (2, 1, 0), strict=True):
        assert answer[name] == pytest.approx(math.exp(value - 2) / total, rel=1e-6)  # float32


def test_one_picture_gives_one_answer_and_several_a_list(bundle):
    one = classify(bundle.path, png(BLUE), top_k=1)
    assert one == (("blue", pytest.approx(1.0)),)
    assert classify(str(bundle.path), [png(BLUE)], top_k=1) == [one]
    assert classify(bundle, []) == []


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ("absent.png", "absent.png cannot be read: No such file"),
        (np.zeros((8, 8, 3)), r"uint8 \[H, W, 3\], given float64 \[8, 8, 3\]"),
        (np.zeros((8, 8), np.uint8), r"given uint8 \[8, 8\]"),
        (7, "given int"),
    ],
)
def test_what_is_no_picture_is_said_to_be_none(bundle, picture, message):
    with pytest.raises(UsageError, match=message):
        classify(bundle, picture)


def test_bytes_that_are_no_picture_are_refused(bundle):
    with pytest.raises(UnsupportedImageError):
        classify(bundle, b"hello")


def test_classes_are_counted_from_one(bundle):
    with pytest.raises(UsageError, match="at least 1, given 0"):
        classify(bundle, png(RED), top_k=0)


def test_an_artifact_is_opened_by_name(bundle):
    with open_runtime(bundle, "onnx-fp32", threads=1) as runtime:
        assert runtime.infer(np.full((2, 8, 8, 3), 3, np.uint8)).tolist() == [[3.0] * 3] * 2
    with pytest.raises(BundleError, match="onnx-fp16"):
        open_runtime(bundle, "onnx-fp16")
