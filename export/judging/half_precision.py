"""What half-precision hardware computes, found on a CPU.

ONNX Runtime's CPU provider has no bfloat16 products, and runs float16 graphs by computing in
float32 without rounding between operators, which flatters them. `widen` writes every
half-precision operator as: inputs to float32, the operator in float32, the result rounded. That is
what hardware with float32 accumulation computes, so parity measured on the widened graph speaks
for a GPU, overflow included. The widened graph is slower than either precision and never shipped.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from lavit_deploy.manifest import Precision

_HALF_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def widen(model: onnx.ModelProto, precision: Precision) -> onnx.ModelProto:
    """A copy of a half-precision graph whose operators compute in float32 and round their results.

    Args:
        model: a graph with inferred types.
        precision: "fp16" or "bf16".
    """
    half = _HALF_TYPES[precision]
    rounded = {
        value.name for value in model.graph.value_info if value.type.tensor_type.elem_type == half
    } | {item.name for item in model.graph.initializer if item.data_type == half}
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    del wide.graph.node[:]
    for node in model.graph.node:
        if node.op_type == "Cast" or not rounded.intersection((*node.input, *node.output)):
            wide.graph.node.add().CopyFrom(node)
            continue
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(node.input):
            if name in rounded:
                copy.input[index] = f"{name}::{node.name}::{index}"
                wide.graph.node.append(_cast(name, copy.input[index], TensorProto.FLOAT))
        for index, name in enumerate(node.output):
            if name in rounded:
                copy.output[index] = f"{name}::wide"
        wide.graph.node.append(copy)
        for name in node.output:
            if name in rounded:
                wide.graph.node.append(_cast(f"{name}::wide", name, half))
    return wide


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], to=kind)
