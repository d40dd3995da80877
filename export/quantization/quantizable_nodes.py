"""Which operators of a graph are quantized: products of tokens with constant weights."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx

from lavit_deploy.common.errors import ExportError
from lavit_deploy.export.graphs.onnx_graph import INPUT_NAME, SCOPES_KEY
from lavit_deploy.families.catalogue import DEFAULT, find_family

_ROOT = "model."
"""Scope of the model inside the exported wrapper."""


@dataclass(frozen=True)
class Product:
    """A product that may become int8.

    Attributes:
        node: its name in the graph.
        activation: the value that it multiplies.
        weight: its constant.
        axis: axis of the weight with one scale for each output channel.
        block: the part of the model that it belongs to, such as "stages.2.blocks.0".
    """

    node: str
    activation: str
    weight: str
    axis: int
    block: str


def products(graph: onnx.ModelProto) -> tuple[Product, ...]:
    """Every product that is quantized, in the order of computation.

    Left in float: products of two activations (scores, and their sums of values), what the model's
    family keeps in float (of a LaViT, maps of scores, Eq. 5 to 7), whatever is no product, and the
    product that reads the picture itself, whose 256 levels would not fit the 255 of a symmetric
    int8.

    Args:
        graph: from `write_onnx`, which says in it what model it is.

    Raises:
        ExportError: the graph has none.
    """
    about = {item.key: item.value for item in graph.metadata_props}
    family = find_family(about.get("family", DEFAULT))
    layers = family.layer_names(family.read_config(json.loads(about["config"])))
    constants = {item.name: item for item in graph.graph.initializer}
    picture = values_of_the_picture(graph)
    found = []
    for node in graph.graph.node:
        if node.op_type not in {"MatMul", "Gemm", "Conv"} or node.input[1] not in constants:
            continue
        scopes = _scopes(node)
        block = _block(scopes, layers)
        if block is None or any(family.stays_float(scope) for scope in scopes):
            continue
        if node.input[0] not in picture:
            axis = output_axis(node, len(constants[node.input[1]].dims))
            found.append(Product(node.name, node.input[0], node.input[1], axis, block))
    if not found:
        raise ExportError("the graph has no product with constant weights to quantize")
    return tuple(found)


def blocks(found: Iterable[Product]) -> tuple[str, ...]:
    """The blocks that products belong to, in the order of computation."""
    return tuple(dict.fromkeys(product.block for product in found))


def output_axis(node: onnx.NodeProto, dimensions: int) -> int:
    """Axis of a product's constant that counts its output channels."""
    if node.op_type == "Conv":
        return 0
    transposed = any(item.name == "transB" and item.i for item in node.attribute)
    return 0 if transposed else dimensions - 1


def _scopes(node: onnx.NodeProto) -> tuple[str, ...]:
    """The modules that a node came from, from the outermost to the innermost."""
    for prop in node.metadata_props:
        if prop.key == SCOPES_KEY:
            return tuple(scope.removeprefix(_ROOT) for scope in ast.literal_eval(prop.value))
    return ()


def _block(scopes: Iterable[str], layers: Sequence[str]) -> str | None:
    """The layer that one of the modules is, or lies in."""
    return next(
        (layer for scope in scopes for layer in layers if f"{scope}.".startswith(f"{layer}.")), None
    )


def values_of_the_picture(graph: onnx.ModelProto) -> set[str]:
    """Values that are the picture, moved or scaled but not yet multiplied by weights."""
    moves = {"Cast", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Mul", "Sub", "Add"}
    values = {INPUT_NAME}
    for node in graph.graph.node:
        if node.op_type in moves and any(name in values for name in node.input):
            values.update(node.output)
    return values
