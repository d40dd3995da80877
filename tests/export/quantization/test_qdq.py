import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st

from lavit_deploy.export.quantization.qdq import insert, quantize_weight
from lavit_deploy.export.quantization.runtime_precision import onnxruntime_types
from lavit_deploy.export.quantization.scheme import run_graph


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), axis=st.integers(0, 1))
def test_a_weight_is_rounded_by_half_a_step_of_its_own_channel(seed, axis):
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(6, 5)) * 10.0 ** generator.integers(-3, 3, (6, 5))
    values = values.astype(np.float32)
    levels, scales = quantize_weight(values, axis)
    shape = (-1, 1) if axis == 0 else (1, -1)
    error = np.abs(levels * scales.reshape(shape) - values)
    # 1e-5: float32's rounding of 127 steps
    assert (error <= 0.5 * scales.reshape(shape) * (1 + 1e-5) + 1e-5 * np.abs(values)).all()
    assert levels.min() >= -127  # -128 would make the type asymmetric


def test_every_weighted_product_but_maps_of_scores_and_the_first_is_quantized(scheme):
    names = {product.node for product in scheme.products}
    constants = {item.name for item in scheme.graph.graph.initializer}
    left = [
        node
        for node in scheme.graph.graph.node
        if node.op_type in {"MatMul", "Gemm", "Conv"}
        and node.input[1] in constants
        and node.name not in names
    ]
    scopes = [" ".join(prop.value for prop in node.metadata_props) for node in left]
    first = [text for text in scopes if "stages.0.patch_embed" in text]
    scores = [text for text in scopes if ".chain" in text or ".residual" in text]
    assert len(first) == 1
    assert len(first) + len(scores) == len(left)
    assert scheme.blocks[-1] == "head"


def test_scores_softmax_and_layer_norms_read_no_int8(scheme):
    graph = scheme.quantized(method="min-max").graph
    rounded = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    for node in graph.node:
        if node.op_type in {"Softmax", "LayerNormalization", "Gelu", "Add"}:
            assert not rounded.intersection(node.input)


def test_onnxruntime_computes_every_chosen_product_in_int8(scheme, tmp_path):
    file = tmp_path / "int8.onnx"
    onnx.save(scheme.quantized(), file)
    types = onnxruntime_types(file)
    # The classifier is a Gemm with a float bias, which ONNX Runtime does not always fuse.
    assert types["int8"] >= len(scheme.products) - 1
    assert types["int8"] + types["int8-weights"] == len(scheme.products)


def test_weights_alone_are_not_taken_for_int8_nor_float_for_either(scheme, tmp_path):
    file = tmp_path / "weights.onnx"
    onnx.save(insert(scheme.graph, scheme.products, None), file)
    types = onnxruntime_types(file)
    assert types["int8"] == 0
    assert types["int8-weights"] == len(scheme.products)
    assert set(onnxruntime_types(scheme.file)) == {"fp32"}


def test_an_activation_rounded_without_its_weight_counts_as_float(scheme, tmp_path):
    """A file full of Q/DQ whose products no kernel takes: it must not pass for int8."""
    graph = scheme.quantized()
    weights = {product.node: product.weight for product in scheme.products}
    present = {item.name for item in graph.graph.initializer}
    kept = {item.name: item for item in scheme.graph.graph.initializer}
    for node in graph.graph.node:
        if node.name in weights:
            node.input[1] = weights[node.name]
            if node.input[1] not in present:
                graph.graph.initializer.append(kept[node.input[1]])
                present.add(node.input[1])
    file = tmp_path / "half.onnx"
    onnx.save(graph, file)
    types = onnxruntime_types(file)
    assert types.most_common(1)[0][0] == "fp32"
    assert types["int8"] == 0


def test_a_graph_with_all_blocks_in_float_is_the_float_graph(scheme, pictures):
    same = scheme.quantized(float_blocks=scheme.blocks)
    np.testing.assert_array_equal(run_graph(same, pictures), run_graph(scheme.graph, pictures))


def test_one_file_holds_all_weights(scheme, tmp_path):
    file = tmp_path / "int8.onnx"
    onnx.save(scheme.quantized(), file)
    loaded = onnx.load(file, load_external_data=False)
    assert all(item.data_location != onnx.TensorProto.EXTERNAL for item in loaded.graph.initializer)
