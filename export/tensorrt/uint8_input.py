"""Pixels to floating point before anything moves them, as TensorRT wants.

TensorRT takes uint8 as the type of a network's input, and lets nothing but a cast read it. The
folded model cuts pictures into patches while they are uint8, because on other runtimes that moves
a quarter of the bytes.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from lavit_deploy.common.errors import ExportError

_MOVES = frozenset({"Reshape", "Transpose"})
"""Operators that move numbers and compute none, so that a cast may go before or after them."""

_MEASURES = frozenset({"Shape", "Size"})
"""Operators that read how large a value is, and not the value."""


def cast_first(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose uint8 input is cast at once, instead of after being cut into patches.

    What asks for the input's size, as the class token does for the batch, asks the cast.

    Args:
        model: a graph with inferred types and one input.

    Raises:
        ExportError: between the input and its cast is something else than movement.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    pixels = graph.input[0]
    if pixels.type.tensor_type.elem_type != TensorProto.UINT8:
        return copy
    moves, cast = _way_to_cast(graph, pixels.name)
    if not moves and sum(pixels.name in node.input for node in graph.node) == 1:
        return copy
    result = cast.output[0]
    early = helper.make_node(
        "Cast", [pixels.name], [f"{pixels.name}_cast" if moves else result], name="cast_first"
    )
    early.attribute.extend(cast.attribute)
    early.metadata_props.extend(cast.metadata_props)
    graph.node.remove(cast)
    if moves:  # the last one takes over the name of the old cast's result, which other nodes read
        _rename(graph, moves[-1].output[0], result)
        moves[-1].output[0] = result
    _rename(graph, pixels.name, early.output[0])
    moved = {node.output[0] for node in moves}
    kept = [value for value in graph.value_info if value.name not in moved]
    del graph.value_info[:]  # their type is another one now; shape inference finds it
    graph.value_info.extend(kept)
    graph.node.insert(0, early)
    return onnx.shape_inference.infer_shapes(copy, strict_mode=True, data_prop=True)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Let every node read another value in a value's place."""
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


def _way_to_cast(graph: onnx.GraphProto, name: str) -> tuple[list[onnx.NodeProto], onnx.NodeProto]:
    """The nodes from a value to the cast that follows it, and that cast."""
    moves: list[onnx.NodeProto] = []
    while True:
        readers = [
            node for node in graph.node if name in node.input and node.op_type not in _MEASURES
        ]
        if len(readers) != 1 or readers[0].op_type not in _MOVES | {"Cast"}:
            found = ", ".join(node.op_type for node in readers) or "nothing"
            raise ExportError(
                f"{name} is read by {found}; TensorRT wants uint8 pictures to be cast first"
            )
        if readers[0].op_type == "Cast":
            return moves, readers[0]
        moves.append(readers[0])
        name = readers[0].output[0]
