import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lavit_deploy.export.graphs.onnx_graph import write_onnx
from lavit_deploy.export.graphs.precision import to_precision
from lavit_deploy.export.judging.half_precision import widen
from lavit_deploy.manifest import BatchRange
from lavit_deploy.runtimes.onnxruntime import import_onnxruntime

pytestmark = pytest.mark.slow

TYPES = {
    "fp16": (TensorProto.FLOAT16, np.float16),
    "bf16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
}


def product_graph(precision):
    """y = float32(relu(half(x) @ w) * s) in half precision, types inferred."""
    kind, dtype = TYPES[precision]
    generator = np.random.default_rng(4)
    weights = generator.normal(size=(16, 8)).astype(dtype)
    scale = np.asarray(0.3, dtype=dtype)
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=kind, name="to_half"),
        helper.make_node("MatMul", ["h", "w"], ["p"], name="product"),
        helper.make_node("Relu", ["p"], ["r"], name="relu"),
        helper.make_node("Mul", ["r", "s"], ["m"], name="scale"),
        helper.make_node("Cast", ["m"], ["y"], to=TensorProto.FLOAT, name="to_float"),
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(scale, "s")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True), weights, scale


def run(model, feed):
    session = import_onnxruntime().InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, feed)[0]


@pytest.mark.parametrize("precision", TYPES)
def test_every_result_is_rounded_and_every_sum_is_wide(precision):
    model, weights, scale = product_graph(precision)
    dtype = TYPES[precision][1]
    x = np.random.default_rng(5).normal(size=(6, 16)).astype(np.float32)
    product = x.astype(dtype).astype(np.float64) @ weights.astype(np.float64)
    # Rounding the exact sum and rounding its float32 sum differ only at a rounding boundary:
    # then by one step of the half precision, so most values must agree to the bit.
    relu = np.maximum(product.astype(np.float32).astype(dtype), dtype(0))
    expected = (relu.astype(np.float32) * np.float32(scale)).astype(dtype).astype(np.float32)
    found = run(widen(model, precision), {"x": x})
    assert (found == expected).mean() > 0.95
    unrounded = np.maximum(product, 0) * float(scale)
    assert (found[unrounded > 0] != unrounded[unrounded > 0].astype(np.float32)).mean() > 0.9


def test_float16_overflows_as_it_does_on_a_gpu():
    model, _, _ = product_graph("fp16")
    found = run(widen(model, "fp16"), {"x": np.full((1, 16), 60000.0, dtype=np.float32)})
    assert np.isinf(found).any()


@pytest.mark.parametrize("precision", TYPES)
def test_a_widened_model_is_valid_and_the_original_is_untouched(
    precision, tiny_checkpoint, tiny_model, tmp_path
):
    batch = BatchRange(minimum=1, optimum=4, maximum=16)
    model = to_precision(tiny_model, precision)
    graph = write_onnx(
        tiny_checkpoint, model, tmp_path / "m.onnx", batch=batch, precision=precision
    )
    before = graph.SerializeToString(deterministic=True)
    wide = widen(graph, precision)
    onnx.checker.check_model(wide, full_check=True)
    assert graph.SerializeToString(deterministic=True) == before
    images = np.zeros((3, 32, 32, 3), dtype=np.uint8)
    assert run(wide, {"images": images}).shape == (3, 5)
