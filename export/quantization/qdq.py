"""Int8 written into an ONNX graph as QuantizeLinear and DequantizeLinear (Q/DQ).

One file serves ONNX Runtime and TensorRT: weights have a symmetric scale per output channel,
activations a symmetric one per tensor. Weights are stored as int8, so the file is a quarter. Q/DQ
stand before products only: what leaves a product is float, and so are residuals, scores, softmax
and LayerNorm.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from lavit_deploy.export.graphs.onnx_graph import check
from lavit_deploy.export.quantization.activation_ranges import LEVELS
from lavit_deploy.export.quantization.quantizable_nodes import Product

_TINY = 1e-12


def insert(
    graph: onnx.ModelProto,
    products: Sequence[Product],
    steps: Mapping[str, float] | None,
    *,
    float_blocks: Collection[str] = (),
) -> onnx.ModelProto:
    """A copy of a float32 graph with int8 products.

    Args:
        graph: the float32 graph.
        products: what may be quantized.
        steps: step of int8 of every activation; None quantizes weights alone.
        float_blocks: blocks that stay as they are.

    Raises:
        ExportError: the result is no valid graph.
    """
    chosen = {item.node: item for item in products if item.block not in float_blocks}
    constants = {item.name: item for item in graph.graph.initializer}
    made = onnx.ModelProto()
    made.CopyFrom(graph)
    del made.graph.node[:]
    del made.graph.value_info[:]  # inferred anew by `check`
    quantized: dict[str, str] = {}
    for source in graph.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(source)
        product = chosen.get(node.name)
        if product is not None:
            if steps is not None:
                node.input[0] = _activation(
                    made, product.activation, steps[product.activation], quantized
                )
            node.input[1] = _weight(made, constants[product.weight], product.axis, quantized)
        made.graph.node.append(node)
    _drop_unused(made)
    return check(made)


def _activation(graph: onnx.ModelProto, name: str, step: float, quantized: dict[str, str]) -> str:
    """The value rounded to int8 and back; made once for all that read it."""
    if name not in quantized:
        _constant(graph, f"{name}_scale", np.float32(step))
        _constant(graph, f"{name}_zero", np.int8(0))
        scale = [f"{name}_scale", f"{name}_zero"]
        q, dq = f"{name}_q", f"{name}_dq"
        graph.graph.node.extend(
            [
                helper.make_node("QuantizeLinear", [name, *scale], [q], name=q),
                helper.make_node("DequantizeLinear", [q, *scale], [dq], name=dq),
            ]
        )
        quantized[name] = dq
    return quantized[name]


def _weight(
    graph: onnx.ModelProto, weight: onnx.TensorProto, axis: int, quantized: dict[str, str]
) -> str:
    """The weight, stored as int8 with a scale for each output channel."""
    name = weight.name
    if name not in quantized:
        values, scales = quantize_weight(numpy_helper.to_array(weight), axis)
        _constant(graph, f"{name}_q", values)
        _constant(graph, f"{name}_scale", scales)
        _constant(graph, f"{name}_zero", np.zeros(scales.shape, dtype=np.int8))
        dq = f"{name}_dq"
        inputs = [f"{name}_q", f"{name}_scale", f"{name}_zero"]
        graph.graph.node.append(
            helper.make_node("DequantizeLinear", inputs, [dq], name=dq, axis=axis)
        )
        quantized[name] = dq
    return quantized[name]


def quantize_weight(
    values: npt.NDArray[np.float32], axis: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """A weight in int8, and the scale of each of its output channels [C]."""
    others = tuple(place for place in range(values.ndim) if place != axis)
    scales = np.maximum(np.abs(values).max(axis=others), _TINY) / np.float32(LEVELS)
    shape = [1] * values.ndim
    shape[axis] = -1
    levels = np.rint(values / scales.reshape(shape))  # [C] -> [1, .., C, .., 1]
    return levels.clip(-LEVELS, LEVELS).astype(np.int8), scales.astype(np.float32)


def _constant(
    graph: onnx.ModelProto, name: str, values: npt.NDArray[np.generic] | np.generic
) -> None:
    graph.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))


def _drop_unused(graph: onnx.ModelProto) -> None:
    used = {name for node in graph.graph.node for name in node.input}
    kept = [item for item in graph.graph.initializer if item.name in used]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)
