"""The shipped checkpoint in reduced precision, on digits that it was not trained on."""

from pathlib import Path

import numpy as np
import pytest

from lavit_deploy.checkpoint import load_checkpoint
from lavit_deploy.export.judging.context import BuildContext
from lavit_deploy.export.judging.parity_pictures import ParityPictures
from lavit_deploy.export.judging.reference import reference_logits
from lavit_deploy.export.mobile.formats.executorch import FORMAT as EXECUTORCH
from lavit_deploy.export.mobile.formats.litert import FORMAT as LITERT
from lavit_deploy.export.mobile.formats.ncnn import FORMAT as NCNN
from lavit_deploy.export.mobile.target import MobileTarget
from lavit_deploy.export.quantization.calibration import open_split
from lavit_deploy.manifest import BatchRange

ONE = BatchRange(minimum=1, optimum=1, maximum=1)
MOST_LOST = 0.5  # points of accuracy, as `lavit-export --max-drop` allows by default


@pytest.fixture(scope="session")
def digits():
    """A workbench of the shipped checkpoint on the held-out digits, and their labels."""
    checkpoint = load_checkpoint(Path(__file__).parents[3] / "examples" / "lavit_digits.pth")
    held_out = open_split("digits", None, checkpoint.preprocess, checkpoint.classes).held_out
    model = checkpoint.build()
    reference = reference_logits(model, held_out.images, checkpoint.preprocess)
    pictures = ParityPictures(held_out.images, held_out.source)
    return BuildContext(checkpoint, model, pictures, reference, ONE, "cpu"), held_out.labels


@pytest.mark.parametrize(
    ("form", "precision"),
    [(EXECUTORCH, "int8"), (LITERT, "int8"), (NCNN, "fp16")],
    ids=lambda value: getattr(value, "name", value),
)
def test_reduced_precision_keeps_what_the_checkpoint_predicts(
    form, precision, digits, tools_of, tmp_path
):
    context, labels = digits
    (variant,) = [item for item in form.variants if item.precision == precision]
    target = MobileTarget(form, (variant,), tools_of(form))
    (artifact,) = target.build(context, tmp_path, lambda _step: None)
    assert artifact.passed, artifact.parity.reason
    float32 = 4 * sum(value.numel() for value in context.model.parameters())
    assert artifact.total_bytes < {"int8": 0.32, "fp16": 0.55}[precision] * float32
    np.save(tmp_path / "pictures.npy", context.pictures.images)
    logits = tmp_path / "logits.npy"
    file = str(tmp_path / artifact.file)
    target.tools.call("run", file, str(tmp_path / "pictures.npy"), str(logits))
    right = (np.load(logits).argmax(axis=1) == labels).mean()
    expected = (context.reference.argmax(axis=1) == labels).mean()
    assert expected > 0.95  # or the comparison would say nothing
    assert 100 * (expected - right) <= MOST_LOST
