"""A Triton repository holds the bundle's files, and Triton's own schema reads its configuration."""

from __future__ import annotations

import contextlib
import io
import re

import numpy as np
import onnx
import openvino
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto
from tritonclient.grpc import model_config_pb2

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.common.errors import ExportError, UsageError
from lavit_deploy.export.cli import main
from lavit_deploy.export.triton_server.config import config_text
from lavit_deploy.export.triton_server.repository import (
    FOLDER,
    check_names,
    labels_text,
    obstacles,
    write_repository,
)
from lavit_deploy.manifest import BatchRange, Engine
from lavit_deploy.runtimes.onnxruntime import OnnxRuntime
from lavit_deploy.runtimes.openvino import OpenVinoRuntime
from lavit_deploy.tasks.logits_parity import TOLERANCES

pytestmark = pytest.mark.slow

BATCH = BatchRange(minimum=1, optimum=4, maximum=16)


@pytest.fixture(scope="module")
def schema():
    """Triton's own `ModelConfig`."""
    return model_config_pb2


@pytest.fixture(scope="module")
def parse(schema):
    """Reads a `config.pbtxt` as Triton does: an unknown field or type is an error."""
    from google.protobuf import text_format

    return lambda text: text_format.Parse(text, schema.ModelConfig())


@pytest.fixture(scope="module")
def export(tiny_checkpoint_file, tmp_path_factory):
    """What `lavit-export --target openvino triton-repo` writes, and what it says."""
    out = tmp_path_factory.mktemp("triton") / "tiny.bundle"
    arguments = ["--ckpt", str(tiny_checkpoint_file), "--out", str(out), "--fp16"]
    batch = ["--batch", "1", "4", "16"]
    with contextlib.redirect_stdout(io.StringIO()) as told:
        assert main([*arguments, *batch, "--target", "openvino", "triton-repo"]) == 0
    return Bundle.open(out), told.getvalue()


@pytest.fixture(scope="module")
def exported(export):
    return export[0]


@pytest.fixture(scope="module")
def told(export):
    return export[1]


def models(bundle):
    """(artifact, its folder in the repository) of every model."""
    able = [name for name, why_not in obstacles(bundle.manifest).items() if not why_not]
    assert able
    return [
        (bundle.artifact(name), bundle.path / FOLDER / f"{bundle.manifest.name}-{name}")
        for name in able
    ]


def test_every_artifact_is_a_model_or_has_a_reason(exported):
    folders = {path.name for path in (exported.path / FOLDER).iterdir()}
    assert folders == {folder.name for _, folder in models(exported)}
    assert {"tiny-onnx-fp32", "tiny-onnx-fp16"} < folders
    assert any(name.startswith("tiny-openvino-") for name in folders)


def test_the_export_says_what_triton_gets_and_what_it_does_not(exported, told):
    assert f"Triton: {exported.path / FOLDER} holds tiny-onnx-fp32, tiny-onnx-fp16" in told
    for name, why_not in obstacles(exported.manifest).items():
        assert (f"without {name}: {why_not}" in told) == bool(why_not)


def test_tritons_schema_reads_every_configuration(exported, parse, schema):
    for artifact, folder in models(exported):
        config = parse((folder / "config.pbtxt").read_text())
        assert config.name == folder.name
        assert config.max_batch_size == artifact.batch.maximum == 16
        assert (folder / "1" / config.default_model_filename).is_file()
        assert config.HasField("dynamic_batching")
        assert [warm.batch_size for warm in config.model_warmup] == [1, 4, 16]
        (given,), (answer,) = config.input, config.output
        for warm in config.model_warmup:
            ((name, tensor),) = warm.inputs.items()
            assert (name, tensor.data_type) == (given.name, given.data_type)
            assert list(tensor.dims) == list(given.dims)
        policy = config.dynamic_batching.default_queue_policy
        assert policy.max_queue_size > 0
        # A timeout of a request can only shorten the default one: without one it would do nothing.
        assert policy.allow_timeout_override
        assert policy.default_timeout_microseconds > 0
        assert policy.timeout_action == schema.ModelQueuePolicy.REJECT
        assert (folder / answer.label_filename).read_text().split("\n") == [
            *exported.manifest.classes,
            "",
        ]


def test_names_types_and_shapes_are_those_of_the_onnx_graph(exported, parse, schema):
    types = {TensorProto.UINT8: schema.TYPE_UINT8, TensorProto.FLOAT: schema.TYPE_FP32}
    graphs = [pair for pair in models(exported) if pair[0].runtime == "onnxruntime"]
    assert len(graphs) == 2
    for _, folder in graphs:
        config = parse((folder / "config.pbtxt").read_text())
        graph = onnx.load(folder / "1" / config.default_model_filename).graph
        for said, found in ((config.input, graph.input), (config.output, graph.output)):
            (tensor,), (value,) = said, found
            batch, *sizes = value.type.tensor_type.shape.dim
            assert batch.dim_param  # free
            assert tensor.name == value.name
            assert tensor.data_type == types[value.type.tensor_type.elem_type]
            assert list(tensor.dims) == [size.dim_value for size in sizes]


def test_the_onnx_model_answers_as_the_bundle_does(exported, pictures):
    artifact, folder = models(exported)[0]
    answers = []
    for file in (exported.path / artifact.file, folder / "1" / "model.onnx"):
        with OnnxRuntime(file, max_batch=8) as runtime:
            answers.append(runtime.infer(pictures[:8]))
    np.testing.assert_array_equal(*answers)


def test_the_openvino_model_finds_its_weights_and_has_the_configured_tensors(
    exported, parse, pictures
):
    artifact, folder = next(pair for pair in models(exported) if pair[0].runtime == "openvino")
    config = parse((folder / "config.pbtxt").read_text())
    file = folder / "1" / config.default_model_filename
    model = openvino.Core().read_model(file)
    (given,), (answer,) = config.input, config.output
    # Triton's backend finds tensors by `get_any_name`.
    assert (model.input().get_any_name(), model.output().get_any_name()) == (
        given.name,
        answer.name,
    )
    assert [size.get_length() for size in list(model.input().partial_shape)[1:]] == given.dims
    assert [size.get_length() for size in list(model.output().partial_shape)[1:]] == answer.dims
    precision = "bf16" if "HINT_BF16" in config.parameters else "fp32"
    assert precision == artifact.precision_found
    with OpenVinoRuntime(file, max_batch=8, precision=precision) as runtime:
        found = runtime.infer(pictures[:8])
    with OnnxRuntime(models(exported)[0][1] / "1" / "model.onnx", max_batch=8) as runtime:
        reference = runtime.infer(pictures[:8])
    # The tolerance that the export itself holds this precision to.
    scale = np.abs(reference).max()
    assert np.abs(found - reference).max() <= TOLERANCES[precision].relative * scale


def changed(bundle, name="onnx-fp32", environment=None, **changes):
    """The manifest with one artifact alone, changed."""
    artifact = bundle.artifact(name).model_copy(update=changes)
    update = {"artifacts": (artifact,)}
    if environment is not None:
        update["environment"] = bundle.manifest.environment.model_copy(update=environment)
    return bundle.manifest.model_copy(update=update)


def failed(bundle):
    parity = bundle.artifact("onnx-fp32").parity
    return parity.model_copy(update={"passed": False, "reason": "cosine 0.5"})


ENGINE = Engine(compute_capabilities=("8.9",), precision_source="engine inspector")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"runtime": "tensorrt_rtx"}, "is of tensorrt_rtx, for which Triton has no backend"),
        ({"runtime": "ncnn"}, "is of ncnn, for which Triton has no backend"),
        ({"plugin": "p.so"}, "needs the plugin p.so"),
        (
            {"batch": BatchRange(minimum=2, optimum=2, maximum=2)},
            "takes 2 pictures or more, and Triton may send one",
        ),
        (
            {
                "runtime": "tensorrt",
                "engine": ENGINE.model_copy(update={"stripped": True}),
            },
            "holds no weights",
        ),
    ],
)
def test_what_triton_cannot_serve_is_left_out_with_the_reason(exported, changes, said):
    assert obstacles(changed(exported, **changes)) == {"onnx-fp32": said}


def test_an_engine_that_never_ran_is_left_out(exported):
    unseen = exported.artifact("onnx-fp32").parity.model_copy(update={"method": "not run"})
    manifest = changed(exported, runtime="tensorrt", engine=ENGINE, parity=unseen)
    assert obstacles(manifest) == {"onnx-fp32": "was built without a GPU and never run"}


def test_openvino_in_float32_is_left_out_where_it_would_silently_be_bfloat16(exported):
    """Triton's backend leaves the precision to OpenVINO, which takes bfloat16 where it can."""
    plain = changed(exported, "openvino-fp32", {"cpu_features": ("avx512f",)})
    native = changed(exported, "openvino-fp32", {"cpu_features": ("avx512_bf16",)})
    assert obstacles(plain) == {"openvino-fp32": ""}
    assert "would compute in bfloat16" in obstacles(native)["openvino-fp32"]


def test_the_devices_of_an_artifact_are_those_of_its_model(exported, parse, schema):
    def kinds(name="onnx-fp32", **changes):
        manifest = changed(exported, name, **changes)
        (artifact,) = manifest.artifacts
        return [group.kind for group in parse(config_text("m", manifest, artifact)).instance_group]

    group = schema.ModelInstanceGroup
    assert kinds() == []  # Triton takes a GPU where there is one
    assert kinds(devices=("cuda",)) == [group.KIND_GPU]
    assert kinds(runtime="tensorrt", devices=("cuda",)) == [group.KIND_GPU]
    assert kinds("openvino-fp32") == [group.KIND_CPU]


def test_a_tensorrt_plan_is_called_as_triton_expects(exported, parse):
    manifest = changed(exported, runtime="tensorrt", devices=("cuda",), engine=ENGINE)
    config = parse(config_text("m", manifest, manifest.artifacts[0]))
    assert (config.backend, config.default_model_filename) == ("tensorrt", "model.plan")
    assert obstacles(manifest) == {"onnx-fp32": ""}


def test_a_bundle_of_which_triton_can_serve_nothing_says_so_and_writes_nothing(exported, tmp_path):
    manifest = changed(exported, parity=failed(exported))
    with pytest.raises(ExportError, match=r"onnx-fp32 failed parity \(cosine 0\.5\)"):
        write_repository(Bundle(tmp_path, manifest))
    assert list(tmp_path.iterdir()) == []


def test_an_export_without_a_repository_keeps_the_bundle_and_ends_in_1(
    tiny_checkpoint_file, tmp_path, capsys, unmeasured
):
    out = tmp_path / "b"
    arguments = ["--ckpt", str(tiny_checkpoint_file), "--out", str(out), "--batch", "2", "4", "16"]
    assert main([*arguments, "--target", "triton-repo"]) == 1
    bundle = Bundle.open(out)
    assert bundle.artifact("onnx-fp32").passed
    assert "takes 2 pictures or more" in bundle.manifest.not_built["triton-repo"]
    assert not (out / FOLDER).exists()
    assert "triton-repo was not built" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", ["../up", "a b", "", ".hidden", "a/b", "größe"])
def test_a_name_that_is_no_folders_is_refused_before_anything_is_built(
    tiny_checkpoint_file, tmp_path, name
):
    arguments = ["--ckpt", str(tiny_checkpoint_file), "--out", str(tmp_path / "b")]
    with pytest.raises(UsageError, match=r"letters, digits and _ \. - are valid"):
        main([*arguments, "--target", "triton-repo", "--name", name or " "])
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=6), min_size=1, max_size=4))
def test_class_names_are_refused_or_come_back_line_by_line(names):
    """However odd a name is: Triton reads the file line by line, at line feeds alone."""
    odd = [name for name in names if name.splitlines() != [name]]
    if odd:
        with pytest.raises(UsageError, match=re.escape(repr(odd[0]))):
            check_names("m", names)
    else:
        check_names("m", names)
        assert labels_text(names).split("\n") == [*names, ""]
