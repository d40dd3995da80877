"""The folded model as an ONNX graph: lean, exact, and of the precision asked for."""

import ast
from collections import Counter

import numpy as np
import onnx
import pytest
import torch

from lavit_deploy.export.graphs.onnx_graph import SCOPES_KEY, write_onnx
from lavit_deploy.export.graphs.precision import precision_found, to_precision
from lavit_deploy.export.judging.divergence import first_divergent_layer
from lavit_deploy.export.judging.reference import reference_logits
from lavit_deploy.folding.fold import fold
from lavit_deploy.manifest import BatchRange
from lavit_deploy.runtimes.onnxruntime import OnnxRuntime

pytestmark = pytest.mark.slow

BATCH = BatchRange(minimum=1, optimum=4, maximum=16)


@pytest.fixture(scope="module", params=["fp32", "fp16", "bf16"])
def exported(request, tiny_checkpoint, tiny_model, tmp_path_factory):
    precision = request.param
    file = tmp_path_factory.mktemp("folded") / f"{precision}.onnx"
    model = to_precision(fold(tiny_model, tiny_checkpoint.preprocess).model, precision)
    graph = write_onnx(tiny_checkpoint, model, file, batch=BATCH, precision=precision)
    return precision, file, graph


def scopes_of(node):
    found = next((p.value for p in node.metadata_props if p.key == SCOPES_KEY), "()")
    return ast.literal_eval(found)


def test_nothing_is_left_that_folding_removes(exported):
    precision, _, graph = exported
    operators = Counter(node.op_type for node in graph.graph.node)
    assert not {"Slice", "Squeeze", "Gather", "BatchNormalization", "Mul", "Sub"} & set(operators)
    assert operators["Conv"] == 3  # the attention residuals
    if precision == "fp32":
        assert operators["Cast"] == 1  # of the uint8 pictures


def test_logits_equal_the_literal_models_from_fewer_nodes_at_every_batch_size(
    tiny_checkpoint, tiny_model, tiny_preprocess, pictures, tmp_path
):
    folded = fold(tiny_model, tiny_preprocess).model
    file = tmp_path / "m.onnx"
    graph = write_onnx(tiny_checkpoint, folded, file, batch=BATCH, precision="fp32")
    literal = write_onnx(
        tiny_checkpoint, tiny_model, tmp_path / "l.onnx", batch=BATCH, precision="fp32"
    )
    assert len(graph.graph.node) < len(literal.graph.node)
    expected = reference_logits(tiny_model, pictures, tiny_preprocess)
    # Different orders of float32 sums of up to 512 terms in some 40 layers.
    tolerance = 1e-5 * abs(expected).max()
    with OnnxRuntime(file, max_batch=16) as runtime:
        for size in (1, 2, 3, 12):
            found = runtime.infer(pictures[:size])
            np.testing.assert_allclose(found, expected[:size], rtol=0, atol=tolerance)


def test_scores_and_their_maps_softmax_and_norms_stay_float32(exported):
    precision, _, graph = exported
    assert precision_found(graph) == precision
    types = {v.name: v.type.tensor_type.elem_type for v in graph.graph.value_info}
    wide = [
        node
        for node in graph.graph.node
        if node.op_type in {"Softmax", "LayerNormalization", "ReduceMean"}
        or any(scope.endswith((".chain", ".residual")) for scope in scopes_of(node))
    ]
    assert len(wide) > 40
    assert {types[node.output[0]] for node in wide} == {onnx.TensorProto.FLOAT}


def test_layers_can_be_compared_with_the_original(
    tiny_checkpoint, tiny_model, tiny_preprocess, pictures, tmp_path
):
    folded = fold(tiny_model, tiny_preprocess).model
    with torch.no_grad():
        folded.stage(2).blocks[1].mlp.fc2.bias += 0.5
    graph = write_onnx(tiny_checkpoint, folded, tmp_path / "m.onnx", batch=BATCH, precision="fp32")
    layer = first_divergent_layer(graph, tiny_model, pictures[:2], tiny_preprocess, tolerance=1e-4)
    assert layer.startswith("stages.2.blocks.1 ")
