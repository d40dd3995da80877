"""Every mobile file is run by its real runtime, and says what it is."""

import dataclasses
import json
import zipfile

import numpy as np
import pytest
from PIL import ExifTags, Image

from lavit_deploy.common.errors import ExportError, MissingDependencyError, UsageError
from lavit_deploy.export.judging.reference import reference_logits
from lavit_deploy.export.mobile.catalogue import FORMATS
from lavit_deploy.export.mobile.formats.coreml import FORMAT as COREML
from lavit_deploy.export.mobile.formats.executorch import FORMAT as EXECUTORCH
from lavit_deploy.export.mobile.formats.format import MobileVariant
from lavit_deploy.export.mobile.formats.litert import FORMAT as LITERT
from lavit_deploy.export.mobile.formats.ncnn import FORMAT as NCNN
from lavit_deploy.export.mobile.formats.ort import FORMAT as ORT
from lavit_deploy.export.mobile.target import MobileTarget, plan_format
from lavit_deploy.export.mobile.tool_environment import find_tool_environment
from lavit_deploy.export.plan import make_plan
from lavit_deploy.export.request import Request
from lavit_deploy.export.targets.target import NotBuilt

pytestmark = pytest.mark.slow

RUN_HERE = (ORT, EXECUTORCH, LITERT, NCNN)


def built(variants, context, folder):
    """Files for ONNX Runtime Mobile, whose packages are always here."""
    target = MobileTarget(ORT, variants, find_tool_environment("ort", ORT.modules))
    return list(target.build(context, folder, lambda _step: None))


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_every_file_passes_parity_in_its_own_runtime(form, files_of, context):
    files = files_of(form)
    assert [item.name for item in files.artifacts] == [item.name for item in form.variants]
    for artifact in files.artifacts:
        assert artifact.passed, (artifact.name, artifact.parity.reason)
        assert artifact.parity.images == len(context.reference)
        assert artifact.parity.method == form.method
        assert artifact.precision_found == artifact.precision_requested
        assert (files.folder / artifact.file).stat().st_size == artifact.size_bytes


@pytest.mark.parametrize("form", RUN_HERE, ids=lambda form: form.name)
def test_what_runs_here_is_measured_with_one_thread_first(form, files_of):
    for artifact in files_of(form).artifacts:
        assert artifact.footprint.own_mib > 0
        assert [timing.threads for timing in artifact.timings] in ([1], [1, 2])


@pytest.mark.parametrize("form", [EXECUTORCH, LITERT], ids=lambda form: form.name)
def test_products_are_delegated_and_what_is_not_is_named(form, files_of):
    for artifact in files_of(form).artifacts:
        left = artifact.undelegated_operators
        assert left  # the cast from uint8 is never delegated
        assert not any("mm" in name or "linear" in name or "softmax" in name for name in left)
        assert not {"BATCH_MATMUL", "SOFTMAX", "GELU"} & left.keys()
        if form is EXECUTORCH:
            assert 0 < artifact.undelegated_share < 1


def test_what_cannot_run_here_is_not_measured(files_of):
    assert not any(item.timings or item.footprint for item in files_of(COREML).artifacts)


@pytest.mark.parametrize("form", [LITERT, COREML, NCNN], ids=lambda form: form.name)
def test_half_precision_has_half_the_bytes(form, files_of):
    # Of the tiny model, names and shapes are most of a file; its weights are what differs.
    sizes = {item.precision_requested: item.total_bytes for item in files_of(form).artifacts}
    assert sizes["fp16"] < sizes.get("fp32", sizes["fp16"] + 1)


def test_a_file_that_computes_something_else_is_marked_and_put_apart(context, tmp_path):
    wrong = dataclasses.replace(context, reference=-context.reference)
    (artifact,) = built(ORT.variants[:1], wrong, tmp_path)
    assert not artifact.passed
    assert "cosine" in artifact.parity.reason
    assert artifact.file == "failed/model.fp32.arm.ort"
    assert (tmp_path / artifact.file).is_file()
    assert (tmp_path / f"{artifact.file}.json").is_file()
    assert not list(tmp_path.glob("*.ort"))


def test_a_file_of_another_precision_than_asked_for_fails(context, tmp_path):
    mistaken = dataclasses.replace(ORT.variants[0], precision="fp16")
    (artifact,) = built((mistaken,), context, tmp_path)
    assert artifact.precision_found == "fp32"
    assert not artifact.passed
    assert artifact.parity.reason == "asked for fp16, the artifact computes in fp32"


def test_a_conversion_that_fails_leaves_the_others(context, tmp_path):
    # No file system takes such a name.
    impossible = MobileVariant("ort-long", "x" * 300, "fp32", "")
    first, second = built((impossible, ORT.variants[1]), context, tmp_path)
    assert isinstance(first, NotBuilt)
    assert first.name == "ort-long"
    assert "ort: convert failed: " in first.reason
    assert second.passed
    assert {file.name for file in tmp_path.iterdir()} >= {"model.fp32.amd64.ort"}


@pytest.mark.parametrize("form", RUN_HERE, ids=lambda form: form.name)
def test_the_example_classifies_with_the_file_alone(
    form, files_of, context, tmp_path, pictures, run_example
):
    files = files_of(form)
    picture = tmp_path / "picture.png"
    # Its shorter side is what the resize asks for, so that the centre crop is the picture itself.
    upright = Image.fromarray(pictures[0]).resize((36, 36))
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6  # as phones store what they took upright
    upright.transpose(Image.Transpose.ROTATE_90).save(picture, exif=turned)
    printed = run_example(files.tools.python, form.name, files.first, picture)
    image = context.checkpoint.preprocess(upright)
    logits = reference_logits(context.model, image[None], context.checkpoint.preprocess)[0]
    share, name, *_ = printed.split()
    assert name == context.checkpoint.classes[logits.argmax()]
    expected = 100 / np.exp(logits - logits.max()).sum()
    assert abs(float(share.rstrip("%")) - expected) < 0.2  # printed with one digit


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_the_sidecar_holds_labels_preprocessing_and_input(form, files_of, context):
    for artifact in files_of(form).artifacts:
        name = artifact.file.split("/")[0]  # an .mlpackage is a folder
        about = json.loads((files_of(form).folder / f"{name}.json").read_text())
        assert about["file"] == name
        assert about["classes"] == list(context.checkpoint.classes)
        assert about["preprocess"]["resize"] == context.checkpoint.preprocess.resize
        assert (about["input"]["height"], about["input"]["width"]) == (32, 32)


def test_every_tflite_file_carries_its_labels(files_of, context):
    files = files_of(LITERT)
    for artifact in files.artifacts:
        with zipfile.ZipFile(files.folder / artifact.file) as inside:
            labels = inside.read("labels.txt").decode().split()
        assert labels == list(context.checkpoint.classes)


def test_a_tool_that_fails_says_why(tmp_path):
    tools = find_tool_environment("ort", ORT.modules)
    with pytest.raises(ExportError, match="ort: run failed: "):
        tools.call("run", str(tmp_path / "absent.ort"), "pictures.npy", "logits.npy")


def test_a_format_that_is_not_installed_is_skipped_or_refused(monkeypatch):
    monkeypatch.setenv("LAVIT_NCNN_PYTHON", "/nonexistent/python")
    plan = make_plan(Request(frozenset({"onnx"}), mobile=True), "cpu")
    (skipped,) = [step for step in plan.steps if step.what == "ncnn"]
    assert skipped.action == "skip"
    assert skipped.why == "LAVIT_NCNN_PYTHON names /nonexistent/python, which is no program"
    with pytest.raises(UsageError, match="--target ncnn: LAVIT_NCNN_PYTHON names /nonexistent"):
        make_plan(Request(frozenset({"ncnn"})), "cpu")
    monkeypatch.delenv("LAVIT_NCNN_PYTHON")
    absent = dataclasses.replace(NCNN, modules=("absent_module",))
    with pytest.raises(MissingDependencyError, match=r"absent_module .*LAVIT_NCNN_PYTHON.*ncnn\]"):
        plan_format(absent, Request(frozenset({"ncnn"})))


def test_mobile_formats_are_not_part_of_auto():
    names = {label for target in make_plan(Request(), "cpu").targets for label in target.labels}
    assert not any(name.startswith("ort-") for name in names)


def test_a_mobile_file_that_fails_also_fails_the_command():
    plan = make_plan(Request(frozenset({"onnx"}), mobile=True), "cpu")
    built = {label for target in plan.targets for label in target.labels}
    assert {"ort-fp32-arm", "ort-fp32-amd64"} <= built
    assert not plan.extras & {variant.name for form in FORMATS for variant in form.variants}
