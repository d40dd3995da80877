"""Exporting from Python: the same bundle as the command line's, and mistakes said at once."""

import pytest

from lavit_deploy.common.errors import CheckpointError, UsageError
from lavit_deploy.export.api import export_checkpoint
from lavit_deploy.export.cli import main
from lavit_deploy.export.mobile.catalogue import FORMATS
from lavit_deploy.export.request import TARGETS

pytestmark = pytest.mark.slow


def hashes(manifest):
    return {item.name: (item.file, item.sha256, item.passed) for item in manifest.artifacts}


def test_python_and_the_command_line_write_the_same_artifacts(tiny_checkpoint_file, tmp_path):
    steps = []
    classes = ["a", "b", "c", "d", "e"]
    (tmp_path / "names.txt").write_text("\n".join(classes))
    made = export_checkpoint(
        str(tiny_checkpoint_file),
        tmp_path / "python",
        targets="onnx",
        half="fp16",
        batch=(1, 2, 16),
        classes=classes,
        progress=steps.append,
    )
    arguments = ["--ckpt", str(tiny_checkpoint_file), "--out", str(tmp_path / "line")]
    arguments += ["--target", "onnx", "--fp16", "--batch", "1", "2", "16"]
    assert main([*arguments, "--classes", str(tmp_path / "names.txt")]) == 0
    typed = type(made).open(tmp_path / "line").manifest
    assert hashes(made.manifest) == hashes(typed)
    assert set(hashes(typed)) == {"onnx-fp32", "onnx-fp16"}
    assert made.manifest.classes == typed.classes == tuple(classes)
    assert made.manifest.preprocess == typed.preprocess
    assert steps[0] == "reference logits"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ["onxx"]}, "no target onxx; there are auto, onnx, "),
        ({"targets": "tensort"}, "no target tensort; there are"),
        ({"half": "fp8"}, "half is fp16 or bf16, given 'fp8'"),
        ({"classes": ["a"]}, "1 names of classes are given, the model has 5"),
        ({"batch": (4, 2, 1)}, "expected 1 <= MIN <= OPT <= MAX"),
        ({"evaluation": "/no/such"}, "no folder of pictures at /no/such"),
        ({"max_refused": 100.0}, "expected percent, 0 to less than 100"),
        ({"mlp": "fused", "fold": False}, "a form of the folded model"),
        ({"parity_images": "/no/such"}, "/no/such"),
    ],
)
def test_a_mistake_is_said_and_nothing_is_written(tiny_checkpoint_file, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        export_checkpoint(tiny_checkpoint_file, tmp_path / "b", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"absent\.pth"):
        export_checkpoint(tmp_path / "absent.pth", tmp_path / "b")


def test_every_mobile_format_is_a_target():
    assert {form.name for form in FORMATS} <= set(TARGETS)
