"""bfloat16 graphs on a machine without bfloat16 kernels.

ONNX Runtime's CPU provider has no bfloat16 convolution or product. `widen` writes every bfloat16
operator as: inputs to float32, the operator in float32, the result rounded to bfloat16. That is
what bfloat16 hardware with float32 accumulation computes, so parity measured on the widened graph
speaks for the original. It is slower than either precision and is never shipped.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper


def widen(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a bfloat16 graph whose operators compute in float32 and round their results.

    Args:
        model: a graph with inferred types.
    """
    bf16 = {
        value.name
        for value in model.graph.value_info
        if value.type.tensor_type.elem_type == TensorProto.BFLOAT16
    } | {item.name for item in model.graph.initializer if item.data_type == TensorProto.BFLOAT16}
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    del wide.graph.node[:]
    for node in model.graph.node:
        if node.op_type == "Cast" or not bf16.intersection((*node.input, *node.output)):
            wide.graph.node.add().CopyFrom(node)
            continue
        inputs = [_wide_input(wide, node, name) if name in bf16 else name for name in node.input]
        copy = wide.graph.node.add()
        copy.CopyFrom(node)
        copy.input[:] = inputs
        for index, name in enumerate(node.output):
            if name in bf16:
                copy.output[index] = f"{name}::wide"
                cast = helper.make_node("Cast", [f"{name}::wide"], [name], to=TensorProto.BFLOAT16)
                wide.graph.node.append(cast)
    return wide


def _wide_input(wide: onnx.ModelProto, node: onnx.NodeProto, name: str) -> str:
    widened = f"{name}::{node.name}"
    wide.graph.node.append(helper.make_node("Cast", [name], [widened], to=TensorProto.FLOAT))
    return widened
