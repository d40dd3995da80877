import json

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from lavit_deploy.bundle import Bundle
from lavit_deploy.config import lavit_micro
from lavit_deploy.environment import Environment
from lavit_deploy.errors import BundleError, InferenceError, ParityError
from lavit_deploy.files import sha256_of
from lavit_deploy.manifest import Artifact, BatchRange, Checkpoint, Manifest, Parity, Timing
from lavit_deploy.preprocess import Preprocess
from lavit_deploy.runtimes.onnxruntime import OnnxRuntime
from lavit_deploy.runtimes.opening import open_artifact


def write_mean_graph(path, *, dtype=TensorProto.UINT8):
    """logits = mean colour of the picture: uint8 [B, 8, 8, 3] -> float32 [B, 3]."""
    nodes = [
        helper.make_node("Cast", ["images"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["wide", "axes"], ["logits"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("images", dtype, ["batch", 8, 8, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10), path)


def parity(*, passed=True):
    return Parity(
        method="run",
        images=4,
        source="test",
        max_difference=0.0,
        mean_difference=0.0,
        cosine=1.0,
        top1_agreement=1.0,
        passed=passed,
        reason="" if passed else "cosine 0.2, required 0.9",
    )


def artifact(folder, name, *, rate=1.0, passed=True, devices=("cpu", "cuda"), rounded=None):
    file = folder / f"{name}.onnx"
    write_mean_graph(file)
    return Artifact(
        name=name,
        file=file.name,
        sha256=sha256_of(file),
        size_bytes=file.stat().st_size,
        runtime="onnxruntime",
        runtime_version="1",
        format_version="opset 22",
        precision_requested="fp32",
        precision_found="fp32",
        compute_types={"fp32": 1},
        batch=BatchRange(minimum=1, optimum=2, maximum=4),
        devices=devices,
        device="cpu",
        build_seconds=0.1,
        parity=parity(passed=passed),
        rounded_parity=rounded,
        timings=(Timing(batch=1, median_ms=1e3 / rate, images_per_second=rate, runs=3),),
    )


def write(folder, *artifacts):
    manifest = Manifest(
        project_version="0",
        name="mean",
        architecture="lavit_micro",
        config=lavit_micro(num_classes=3),
        classes=("red", "green", "blue"),
        preprocess=Preprocess(resize=8, crop=(8, 8)),
        checkpoint=Checkpoint(file="m.pth", sha256="0" * 64),
        artifacts=artifacts,
        environment=Environment.here(),
        command=("lavit-export",),
        created="2026-01-01T00:00:00+00:00",
    )
    Bundle.write_manifest(folder, manifest)
    return manifest


def test_a_manifest_survives_the_disk(tmp_path):
    manifest = write(tmp_path, artifact(tmp_path, "a"))
    assert Bundle.open(tmp_path).manifest == manifest


def test_the_fastest_artifact_that_passed_is_served(tmp_path):
    write(
        tmp_path,
        artifact(tmp_path, "slow", rate=10),
        artifact(tmp_path, "fast", rate=30),
        artifact(tmp_path, "wrong", rate=90, passed=False),
        artifact(tmp_path, "elsewhere", rate=90, devices=("cuda",)),
        artifact(tmp_path, "overflows", rate=90, rounded=parity(passed=False)),
    )
    bundle = Bundle.open(tmp_path)
    assert bundle.servable().name == "fast"
    assert bundle.servable("slow").name == "slow"
    assert bundle.servable(device="cuda").name == "elsewhere"


def test_an_artifact_that_failed_parity_is_never_served(tmp_path):
    write(tmp_path, artifact(tmp_path, "wrong", passed=False))
    for name in ("auto", "wrong"):
        with pytest.raises(ParityError, match=r"wrong failed parity \(cosine 0.2"):
            Bundle.open(tmp_path).servable(name)


def test_an_artifact_without_kernels_for_the_device_is_refused(tmp_path):
    write(tmp_path, artifact(tmp_path, "gpu", devices=("cuda",)))
    with pytest.raises(BundleError, match="only on cuda"):
        Bundle.open(tmp_path).servable("gpu")
    with pytest.raises(BundleError, match="no artifact that runs on cpu"):
        Bundle.open(tmp_path).servable()


def test_an_unknown_name_lists_those_there_are(tmp_path):
    write(tmp_path, artifact(tmp_path, "a"), artifact(tmp_path, "b"))
    with pytest.raises(BundleError, match="no artifact 'c'; it has a, b"):
        Bundle.open(tmp_path).servable("c")


def test_an_artifact_runs_through_its_runtime(tmp_path):
    item = artifact(tmp_path, "a")
    write(tmp_path, item)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    with open_artifact(Bundle.open(tmp_path), item) as runtime:
        assert (runtime.name, runtime.device, runtime.max_batch) == ("onnxruntime", "cpu", 4)
        # a float32 mean of 64 integers is exact to 1e-5
        np.testing.assert_allclose(runtime.infer(images), images.mean(axis=(1, 2)), atol=1e-4)
        runtime.close()
        with pytest.raises(InferenceError, match="closed"):
            runtime.infer(images)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((0, 8, 8, 3), np.uint8, "given uint8"),
        ((2, 8, 9, 3), np.uint8, r"\[2, 8, 9, 3\]"),
        ((2, 8, 8, 3), np.float32, "given float32"),
        ((5, 8, 8, 3), np.uint8, "at most 4 images"),
    ],
)
def test_a_batch_that_does_not_fit_is_named(tmp_path, shape, dtype, message):
    item = artifact(tmp_path, "a")
    write(tmp_path, item)
    with (
        open_artifact(Bundle.open(tmp_path), item) as runtime,
        pytest.raises(InferenceError, match=message),
    ):
        runtime.infer(np.zeros(shape, dtype=dtype))


def test_an_altered_file_is_refused(tmp_path):
    item = artifact(tmp_path, "a")
    write(tmp_path, item)
    file = tmp_path / item.file
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(BundleError, match="not the file that was exported"):
        open_artifact(Bundle.open(tmp_path), item)


def test_a_missing_file_is_refused(tmp_path):
    item = artifact(tmp_path, "a")
    write(tmp_path, item)
    (tmp_path / item.file).unlink()
    with pytest.raises(BundleError, match="incomplete"):
        open_artifact(Bundle.open(tmp_path), item)


def test_a_file_outside_the_bundle_is_refused(tmp_path):
    inside = tmp_path / "b"
    inside.mkdir()
    item = artifact(tmp_path, "a").model_copy(update={"file": "../a.onnx"})
    write(inside, item)
    with pytest.raises(BundleError, match="outside the bundle"):
        open_artifact(Bundle.open(inside), item)


def test_a_graph_that_does_not_take_pictures_is_refused(tmp_path):
    write_mean_graph(tmp_path / "f.onnx", dtype=TensorProto.FLOAT)
    with pytest.raises(BundleError, match="expected one uint8"):
        OnnxRuntime(tmp_path / "f.onnx", max_batch=4)


def test_a_file_that_is_no_graph_is_refused(tmp_path):
    (tmp_path / "f.onnx").write_text("hello")
    with pytest.raises(BundleError, match="cannot open"):
        OnnxRuntime(tmp_path / "f.onnx", max_batch=4)


def edit(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema version 2; this version reads 1"),
        ({"artifacts": [{"name": "a"}]}, "artifacts.0.file: Field required"),
        ({"surprise": 1}, "surprise: Extra inputs"),
        ({"config": {"dims": [1]}}, "impossible model"),
    ],
)
def test_a_manifest_that_is_not_understood_is_refused(tmp_path, changes, message):
    write(tmp_path, artifact(tmp_path, "a"))
    edit(tmp_path, **changes)
    with pytest.raises(BundleError, match=message):
        Bundle.open(tmp_path)


def test_what_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match="no bundle at"):
        Bundle.open(tmp_path / "absent")
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        Bundle.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match="cannot be read as JSON"):
        Bundle.open(tmp_path)
