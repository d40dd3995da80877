import dataclasses
import json

import numpy as np
import onnx
import pytest
import torch

from lavit_deploy.common.errors import ExportError
from lavit_deploy.export.graphs.onnx_graph import OPSET, WithNormalisation, check, write_onnx
from lavit_deploy.export.graphs.precision import compute_types, precision_found, to_precision
from lavit_deploy.export.judging.reference import reference_logits
from lavit_deploy.manifest import BatchRange
from lavit_deploy.model.config import lavit_micro
from lavit_deploy.model.lavit import LaViT
from lavit_deploy.preprocess import normalise
from lavit_deploy.runtimes.onnxruntime import OnnxRuntime

pytestmark = pytest.mark.slow

BATCH = BatchRange(minimum=1, optimum=4, maximum=16)


@pytest.fixture(scope="module", params=["fp32", "fp16", "bf16"])
def exported(request, tiny_checkpoint, tiny_model, tmp_path_factory):
    precision = request.param
    file = tmp_path_factory.mktemp("graph") / f"{precision}.onnx"
    model = to_precision(tiny_model, precision)
    graph = write_onnx(tiny_checkpoint, model, file, batch=BATCH, precision=precision)
    return precision, file, graph


def test_the_graph_takes_uint8_pictures_of_any_batch_and_gives_float32(exported):
    _, file, _ = exported
    graph = onnx.load(file).graph
    (image,), (logits,) = graph.input, graph.output
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    shape = image.type.tensor_type.shape.dim
    assert shape[0].dim_param
    assert [dim.dim_value for dim in shape[1:]] == [32, 32, 3]
    assert logits.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_every_layer_norm_stays_one_node_in_float32(exported, tiny_model):
    _, _, graph = exported
    norms = [node for node in graph.graph.node if node.op_type == "LayerNormalization"]
    modules = [m for m in tiny_model.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert len(norms) == len(modules)
    types = {v.name: v.type.tensor_type.elem_type for v in graph.graph.value_info}
    assert {types[node.output[0]] for node in norms} == {onnx.TensorProto.FLOAT}


def test_softmax_and_score_maps_stay_float32(exported):
    _, _, graph = exported
    types = {v.name: v.type.tensor_type.elem_type for v in graph.graph.value_info}
    for node in graph.graph.node:
        scopes = next((p.value for p in node.metadata_props if "scopes" in p.key), "")
        if node.op_type == "Softmax" or ".theta" in scopes or ".psi" in scopes:
            assert types[node.output[0]] == onnx.TensorProto.FLOAT, node.name


def test_the_precision_found_is_the_one_asked_for(exported):
    precision, _, graph = exported
    assert precision_found(graph) == precision


def test_a_graph_left_in_float32_is_not_taken_for_half_precision(
    tiny_checkpoint, tiny_model, tmp_path
):
    graph = write_onnx(
        tiny_checkpoint, tiny_model, tmp_path / "m.onnx", batch=BATCH, precision="fp16"
    )
    assert precision_found(graph) == "fp32"
    assert set(compute_types(graph)) == {"fp32"}


def test_the_file_says_what_it_is_and_holds_no_path(exported, tiny_checkpoint):
    precision, file, _ = exported
    model = onnx.load(file)
    about = {item.key: item.value for item in model.metadata_props}
    assert json.loads(about["classes"]) == list(tiny_checkpoint.classes)
    assert about["precision"] == precision
    assert about["checkpoint_sha256"] == tiny_checkpoint.sha256
    assert {item.version for item in model.opset_import if item.domain == ""} == {OPSET}
    assert b".py" not in file.read_bytes()


def test_float32_logits_equal_pytorchs_at_every_batch_size(
    tiny_checkpoint, tiny_model, tiny_preprocess, pictures, tmp_path
):
    file = tmp_path / "m.onnx"
    write_onnx(tiny_checkpoint, tiny_model, file, batch=BATCH, precision="fp32")
    expected = reference_logits(tiny_model, pictures, tiny_preprocess)
    # Different orders of float32 sums of up to 64 terms in some 40 layers.
    tolerance = 1e-5 * abs(expected).max()
    with OnnxRuntime(file, max_batch=16) as runtime:
        for size in (1, 2, 3, 12):
            found = runtime.infer(pictures[:size])
            np.testing.assert_allclose(found, expected[:size], rtol=0, atol=tolerance)


def test_normalisation_inside_the_graph_is_that_of_training(tiny_model, tiny_preprocess, pictures):
    inside = WithNormalisation(tiny_model, tiny_preprocess)
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() * inside.scale - inside.shift
    # One multiply-add instead of three operations on values below 4.
    np.testing.assert_allclose(x.numpy(), normalise(pictures, tiny_preprocess), atol=2e-6, rtol=0)


def test_a_decomposed_layer_norm_is_refused(tiny_checkpoint, tmp_path):
    class Decomposed(torch.nn.LayerNorm):
        def forward(self, x):
            centred = x - x.mean(-1, keepdim=True)
            variance = centred.pow(2).mean(-1, keepdim=True)
            return centred / (variance + self.eps).sqrt() * self.weight + self.bias

    model = LaViT(tiny_checkpoint.config).eval()
    model.norm = Decomposed(16, eps=1e-6)
    with pytest.raises(ExportError, match="was decomposed"):
        write_onnx(tiny_checkpoint, model, tmp_path / "m.onnx", batch=BATCH, precision="fp32")
    assert list(tmp_path.iterdir()) == []


def test_an_invalid_graph_is_refused(exported):
    broken = onnx.ModelProto()
    broken.CopyFrom(exported[2])
    broken.graph.node[3].input[0] = "nowhere"
    with pytest.raises(ExportError, match="invalid"):
        check(broken)


def test_lavit_micro_exports_with_a_class_token(tiny_checkpoint, tmp_path):
    config = dataclasses.replace(lavit_micro(), class_token=True)
    checkpoint = dataclasses.replace(
        tiny_checkpoint,
        config=config,
        preprocess=tiny_checkpoint.preprocess.model_copy(update={"crop": (64, 64)}),
    )
    model = LaViT(config).eval()
    file = tmp_path / "m.onnx"
    write_onnx(checkpoint, model, file, batch=BATCH, precision="fp32")
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    expected = reference_logits(model, images, checkpoint.preprocess)
    with OnnxRuntime(file, max_batch=16) as runtime:
        np.testing.assert_allclose(runtime.infer(images), expected, atol=1e-5, rtol=0)
