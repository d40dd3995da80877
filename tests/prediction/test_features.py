"""Features are what the last linear layer reads, whatever follows its product."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lavit_deploy.common.atomic_files import sha256_of
from lavit_deploy.common.errors import BundleError, UsageError
from lavit_deploy.prediction.features import FeatureModel, feature_artifact

WEIGHT = np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0], [0.5, 0.0, 1.0]], dtype=np.float32)


def write_head(path, head):
    """Mean colours [B, 3], then a linear layer: logits = means @ WEIGHT, spelled as `head`."""
    tail = {
        "gemm": [helper.make_node("Gemm", ["means", "weight"], ["logits"])],
        "matmul and bias": [
            helper.make_node("MatMul", ["means", "weight"], ["product"]),
            helper.make_node("Add", ["product", "zero"], ["logits"]),
        ],
    }[head]
    nodes = [
        helper.make_node("Cast", ["images"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["wide", "axes"], ["means"], keepdims=0),
        *tail,
    ]
    graph = helper.make_graph(
        nodes,
        "head",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 8, 8, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [
            helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
            numpy_helper.from_array(WEIGHT, "weight"),
            numpy_helper.from_array(np.zeros(3, dtype=np.float32), "zero"),
        ],
    )
    opset = helper.make_opsetid("", 22)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)


def with_head(bundle, write, head):
    (artifact,) = bundle.manifest.artifacts
    file = bundle.path / artifact.file
    write_head(file, head)
    artifact = artifact.model_copy(update={"sha256": sha256_of(file)})
    return write(artifact, folder=bundle.path)


@pytest.mark.parametrize("head", ["gemm", "matmul and bias"])
def test_logits_are_the_last_layer_of_the_features(bundle, write, head):
    bundle = with_head(bundle, write, head)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    logits, features = FeatureModel(bundle, feature_artifact(bundle, "auto"))(images)
    # float32 sums of 64 bytes are exact below 2^24; the division rounds once.
    np.testing.assert_allclose(features, images.mean(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_allclose(logits, features @ WEIGHT, rtol=1e-6)


def test_a_graph_without_a_last_linear_layer_has_none(bundle):
    with pytest.raises(BundleError, match="ends in no linear layer"):
        FeatureModel(bundle, feature_artifact(bundle, "auto"))


def test_only_graphs_of_onnx_have_them(bundle, write):
    (artifact,) = bundle.manifest.artifacts
    bundle = write(artifact.model_copy(update={"runtime": "openvino"}), folder=bundle.path)
    with pytest.raises(UsageError, match=r"has onnx-fp32 \(openvino\)"):
        feature_artifact(bundle, "auto")
