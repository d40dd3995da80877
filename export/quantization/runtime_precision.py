"""What a runtime really computes in, read from the graph that it made of a file.

A file may hold int8 and still be computed in float: a fusion that was expected does not match, and
the runtime dequantizes everything first. Only the runtime's own graph shows that.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import onnx

from lavit_deploy.runtimes.onnxruntime import import_onnxruntime
from lavit_deploy.runtimes.openvino import import_openvino

_INT8 = {
    "MatMulIntegerToFloat",
    "MatMulInteger",
    "DynamicQuantizeMatMul",
    "QLinearMatMul",
    "QGemm",
    "QLinearConv",
    "ConvInteger",
}
_WEIGHTS = {"MatMulNBits"}
_FLOAT = {"MatMul", "Gemm", "Conv", "FusedMatMul", "FusedGemm", "FusedConv"}


def onnxruntime_types(file: Path) -> Counter[str]:
    """Number of products by what ONNX Runtime computes them in: "int8", "int8-weights", "fp32".

    Args:
        file: an ONNX file.
    """
    ort = import_onnxruntime()
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / "optimised.onnx"
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(written)
        options.log_severity_level = 3  # it warns that such a file fits this machine alone
        ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        graph = onnx.load(written).graph
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    found: Counter[str] = Counter()
    for node in graph.node:
        if node.op_type in _INT8:
            found["int8"] += 1
        elif node.op_type in _WEIGHTS or (node.op_type in _FLOAT and node.input[1] in dequantized):
            found["int8-weights"] += 1
        elif node.op_type in _FLOAT:
            found["fp32"] += 1
    return found


def openvino_precision(xml: Path, types: Counter[str]) -> str:
    """What an IR computes in.

    Args:
        xml: the IR, to look for int8 weights in.
        types: number of products by precision in the graph that OpenVINO compiled.

    Returns:
        "int8" where activations are rounded and most products run in int8; "int8-weights" where
        no activation is rounded and most bytes of constants are int8, which OpenVINO may multiply
        in int8 all the same, by rounding each row as it comes; else the most common precision of
        products.
    """
    bytes_of: Counter[str] = Counter()
    rounded = False
    for node in import_openvino().Core().read_model(xml).get_ops():
        rounded = rounded or node.get_type_name() == "FakeQuantize"
        if node.get_type_name() == "Constant":
            bytes_of[node.get_element_type().get_type_name()] += node.get_byte_size()
    if not rounded and bytes_of["i8"] + bytes_of["u8"] > bytes_of["f32"]:
        return "int8-weights"
    found = types.most_common(1)[0][0]
    return "fp32" if found == "int8" and not rounded else found
