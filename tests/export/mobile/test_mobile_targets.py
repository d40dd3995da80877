"""Every mobile file is run by its real runtime, and says what it is."""

import dataclasses
import json
import zipfile

import pytest
from PIL import Image

from export.mobile.interpreters import find_tools
from export.mobile.target import MobileTarget
from export.parity import reference_logits
from export.plan import make_plan
from export.request import Request
from export.targets.coreml import COREML
from export.targets.executorch import EXECUTORCH
from export.targets.litert import LITERT
from export.targets.ncnn import NCNN
from export.targets.ort import ORT
from lavit_deploy.errors import ExportError, MissingDependencyError

FORMATS = (ORT, EXECUTORCH, LITERT, COREML, NCNN)


def built(form, tools, bench, folder, *, variants=1):
    """The first files of a format."""
    target = MobileTarget(form, form.variants[:variants], tools)
    return list(target.build(bench, folder, lambda _step: None))


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_a_file_passes_parity_in_its_own_runtime(form, tools_of, bench, tmp_path):
    (artifact,) = built(form, tools_of(form), bench, tmp_path)
    assert artifact.passed, artifact.parity.reason
    assert artifact.parity.images == len(bench.reference)
    assert artifact.parity.method == form.method
    if form.method == "run":
        assert artifact.footprint.own_mib > 0
        assert artifact.timings[0].threads == 1
    else:
        assert not artifact.timings


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_a_file_that_computes_something_else_is_marked_as_failed(form, tools_of, bench, tmp_path):
    wrong = dataclasses.replace(bench, reference=-bench.reference)
    (artifact,) = built(form, tools_of(form), wrong, tmp_path)
    assert not artifact.passed
    assert "cosine" in artifact.parity.reason


@pytest.mark.parametrize("form", FORMATS[:3] + FORMATS[4:], ids=lambda form: form.name)
def test_the_example_classifies_with_the_file_alone(
    form, tools_of, bench, tmp_path, pictures, run_example
):
    tools = tools_of(form)
    (artifact,) = built(form, tools, bench, tmp_path)
    picture = tmp_path / "picture.png"
    # Its shorter side is what the resize asks for, so that the centre crop is the picture itself.
    Image.fromarray(pictures[0]).resize((36, 36)).save(picture)
    printed = run_example(tools.python, form.name, tmp_path / artifact.file, picture)
    size = bench.checkpoint.preprocess(Image.open(picture))
    logits = reference_logits(bench.model, size[None], bench.checkpoint.preprocess)[0]
    assert printed.split()[1] == bench.checkpoint.classes[logits.argmax()]


def test_the_sidecar_holds_labels_preprocessing_and_input(bench, tmp_path, tools_of):
    (artifact,) = built(ORT, tools_of(ORT), bench, tmp_path)
    about = json.loads((tmp_path / f"{artifact.file}.json").read_text())
    assert about["classes"] == list(bench.checkpoint.classes)
    assert about["preprocess"]["resize"] == bench.checkpoint.preprocess.resize
    assert about["input"]["layout"] == "uint8 [1, H, W, 3]"


def test_a_tflite_file_carries_its_labels(bench, tmp_path, tools_of):
    (artifact,) = built(LITERT, tools_of(LITERT), bench, tmp_path)
    with zipfile.ZipFile(tmp_path / artifact.file) as files:
        labels = files.read("labels.txt").decode().split()
    assert labels == list(bench.checkpoint.classes)


def test_a_conversion_that_fails_says_why(tmp_path):
    tools = find_tools("ort", ORT.modules)
    with pytest.raises(ExportError, match="ort: run failed: "):
        tools.call("run", str(tmp_path / "absent.ort"), "pictures.npy", "logits.npy")


def test_a_format_that_is_not_installed_is_skipped_or_refused(monkeypatch):
    monkeypatch.setenv("LAVIT_NCNN_PYTHON", "/nonexistent/python")
    plan = make_plan(Request(frozenset({"onnx"}), mobile=True), "cpu")
    (skipped,) = [step for step in plan.steps if step.what == "ncnn"]
    assert skipped.action == "skip"
    assert "pip install ncnn==" in skipped.why
    with pytest.raises(MissingDependencyError, match="ncnn"):
        make_plan(Request(frozenset({"ncnn"})), "cpu")


def test_mobile_formats_are_not_part_of_auto():
    names = {label for target in make_plan(Request(), "cpu").targets for label in target.labels}
    assert not any(name.startswith("ort-") for name in names)
