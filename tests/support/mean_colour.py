"""The graph of the service's tests: a picture's mean colour, whose softmax has a closed form.

    python tests/support/mean_colour.py    # writes mean_colour.onnx anew

The file is kept: these tests run where the onnx package is not installed, as the service does.
"""

from pathlib import Path

FILE = Path(__file__).with_suffix(".onnx")

SCALE = 10.0
"""Logit of a class whose colour fills the picture."""


def built():
    """logits [B, 3] = SCALE / 255 * mean over H and W of uint8 [B, 64, 64, 3]."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
        helper.make_node("Mul", ["means", "scale"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mean_colour",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["B", 64, 64, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 3])],
        [
            numpy_helper.from_array(np.array([1, 2], dtype=np.int64), "axes"),
            numpy_helper.from_array(np.float32(SCALE / 255), "scale"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    FILE.write_bytes(built().SerializeToString(deterministic=True))
