import json

import numpy as np
import pytest
from onnx import TensorProto

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.bundle.open import open_artifact
from lavit_deploy.common.errors import BundleError, InferenceError
from lavit_deploy.runtimes.onnxruntime import OnnxRuntime


def test_a_manifest_survives_the_disk(tmp_path, write, artifact):
    manifest = write(artifact("a")).manifest
    assert Bundle.open(tmp_path).manifest == manifest
    assert manifest.artifacts == (artifact("a"),)


def test_an_artifact_runs_through_its_runtime(write, artifact):
    item = artifact("a")
    bundle = write(item)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    with open_artifact(bundle, item) as runtime:
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
def test_a_batch_that_does_not_fit_is_named(shape, dtype, message, write, artifact):
    item = artifact("a")
    bundle = write(item)
    with (
        open_artifact(bundle, item) as runtime,
        pytest.raises(InferenceError, match=message),
    ):
        runtime.infer(np.zeros(shape, dtype=dtype))


def test_an_altered_file_is_refused(tmp_path, write, artifact):
    item = artifact("a")
    bundle = write(item)
    file = tmp_path / item.file
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(BundleError, match="not the file that was exported"):
        open_artifact(bundle, item)


def test_a_missing_file_is_refused(tmp_path, write, artifact):
    item = artifact("a")
    bundle = write(item)
    (tmp_path / item.file).unlink()
    with pytest.raises(BundleError, match="incomplete"):
        open_artifact(bundle, item)


def test_a_file_outside_the_bundle_is_refused(tmp_path, write, artifact):
    inside = tmp_path / "b"
    inside.mkdir()
    item = artifact("a", file="../a.onnx")
    bundle = write(item, folder=inside)
    with pytest.raises(BundleError, match="outside the bundle"):
        open_artifact(bundle, item)


def test_a_graph_that_does_not_take_pictures_is_refused(tmp_path, write_graph):
    write_graph(tmp_path / "f.onnx", dtype=TensorProto.FLOAT)
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
        ({"schema_version": 3}, "schema version 3; this version reads 1 to 2"),
        ({"artifacts": [{"name": "a"}]}, "artifacts.0.file: Field required"),
        ({"surprise": 1}, "surprise: Extra inputs"),
        ({"config": {"dims": [1]}}, "impossible model"),
        ({"classes": ["red"]}, "1 classes for a model of 3 outputs"),
        (
            {"preprocess": {"resize": 9, "crop": [9, 8]}},
            r"crops to \[9, 8\], the model takes \[8, 8\]",
        ),
        (
            {"preprocess": {"crop": [8, 8], "mean": [0], "std": [1]}},
            "gives 1 channels, the model takes 3",
        ),
        (
            {"preprocess": {"crop": [8, 8], "std": [float("inf")] * 3}},
            "std.0: Input should be a finite",
        ),
    ],
)
def test_a_manifest_that_is_not_understood_is_refused(tmp_path, changes, message, write, artifact):
    write(artifact("a"))
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
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(BundleError, match="holds a list, expected an object"):
        Bundle.open(tmp_path)


def test_a_manifest_of_version_1_is_lavits_and_classifies(write, artifact):
    bundle = write(artifact("onnx-fp32"))
    values = json.loads((bundle.path / "manifest.json").read_text())
    values["schema_version"] = 1
    del values["family"], values["task"]
    (bundle.path / "manifest.json").write_text(json.dumps(values))
    manifest = Bundle.open(bundle.path).manifest
    assert (manifest.family, manifest.task) == ("lavit", "classification")
    assert manifest.config == bundle.manifest.config


def test_a_manifest_with_the_names_of_version_1_keeps_what_they_said(tmp_path, write, artifact):
    bundle = write(artifact("onnx-fp32"))
    file = bundle.path / "manifest.json"
    values = json.loads(file.read_text())
    (old,) = values["artifacts"]
    assert "first_departure" not in old["parity"]
    del (
        old["undelegated_operators"],
        old["undelegated_share"],
        old["parity"]["first_divergent_layer"],
    )
    old |= {"left_operators": {"layer_norm": 117}, "left_share": 0.45}
    old["parity"]["first_departure"] = "stages.2.blocks.1"
    file.write_text(json.dumps(values))
    (read,) = Bundle.open(bundle.path).manifest.artifacts
    assert read.undelegated_operators == {"layer_norm": 117}
    assert read.undelegated_share == 0.45
    assert read.parity.first_divergent_layer == "stages.2.blocks.1"
