"""The precision that an engine computes in, read back from what was built.

Two sources. The engine's inspector lists the layers of the built engine with the types of their
tensors; it needs the engine deserialised, so a GPU. Elsewhere the network is read, layer by layer:
it is strongly typed, so the builder may fuse its layers and may not change their types.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from lavit_deploy.runtimes.tensorrt_library import Library

Source = Literal["engine inspector", "network layers"]

_NAMES = {
    "FLOAT": "fp32",
    "HALF": "fp16",
    "BF16": "bf16",
    "INT8": "int8",
    "FP8": "fp8",
    "INT4": "int4",
    "FP4": "fp4",
}
_SPELLINGS = {
    "fp32": "fp32",
    "float": "fp32",
    "fp16": "fp16",
    "half": "fp16",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "int8": "int8",
    "fp8": "fp8",
}
"""Words of the inspector's "Format/Datatype", which differ between versions of TensorRT."""
_COMPUTE = ("gemm", "conv", "matrix_multiply", "matrixmultiply", "matmul", "mha", "attention")
"""What the types or tactics of layers that multiply matrices hold in their names."""
_PASSING = ("SHUFFLE", "CAST", "IDENTITY", "QUANTIZE", "DEQUANTIZE", "CONSTANT")
"""Layers through which a weight reaches its product."""


@dataclass(frozen=True)
class Found:
    """What an engine computes in.

    Attributes:
        precision: the type of most weights of its products (of most products, where weights are
            not listed), "none" where no product was recognised.
        products: number of matrix products and convolutions by element type.
        source: where it was read.
    """

    precision: str
    products: dict[str, int]
    source: Source


def read_network(library: Library, network: Any) -> Found:  # noqa: ANN401 # no published types
    """Read the layers of a strongly typed network.

    Args:
        library: the library that the network is of.
        network: the network that the engine was built from.
    """
    kinds = library.module.LayerType
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    writers = {
        layer.get_output(index).name: layer
        for layer in layers
        for index in range(layer.num_outputs)
    }
    products: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    for layer in layers:
        if layer.type not in {kinds.MATRIX_MULTIPLY, kinds.CONVOLUTION, kinds.EINSUM}:
            continue
        kind = _factor_type(layer.get_input(0), writers)
        products[kind] += 1
        for index in range(layer.num_inputs):
            tensor = layer.get_input(index)
            if tensor is not None:
                weights[_factor_type(tensor, writers)] += _weight_count(tensor, writers)
    return Found(_most(weights) or _most(products) or "none", dict(products), "network layers")


def _factor_type(tensor: Any, writers: dict[str, Any]) -> str:  # noqa: ANN401 # no published types
    """Type of a factor; for a dequantised one, what it was stored as."""
    source = tensor
    while (writer := writers.get(source.name)) is not None and writer.type.name == "SHUFFLE":
        source = writer.get_input(0)
    if writer is not None and writer.type.name == "DEQUANTIZE":
        tensor = writer.get_input(0)
    name = tensor.dtype.name
    return _NAMES.get(name, name.lower())


def _weight_count(tensor: Any, writers: dict[str, Any]) -> int:  # noqa: ANN401 # no published types
    """Number of weights that a factor consists of, 0 for one that is computed."""
    while (writer := writers.get(tensor.name)) is not None and writer.type.name in _PASSING:
        if writer.type.name == "CONSTANT":
            return math.prod(tensor.shape)
        tensor = writer.get_input(0)
    return 0


def read_inspector(text: str) -> Found:
    """Read the JSON of an engine inspector, built with detailed profiling verbosity.

    Raises:
        ValueError: it is no JSON of layers.
    """
    content = json.loads(text)
    layers = content.get("Layers", []) if isinstance(content, dict) else []
    products: Counter[str] = Counter()
    for layer in layers:
        if isinstance(layer, dict) and _multiplies(layer):
            kind = next(_types(layer), None)
            if kind is not None:
                products[kind] += 1
    return Found(_most(products) or "none", dict(products), "engine inspector")


def confirm(network: Found, engine: Found) -> Found:
    """What the engine computes in, by its inspector, given what the network asked for.

    Scores stay float32 in a half-precision network, and fusion counts some products as one, so
    the shares of the two may differ. An engine in which the network's precision has less than half
    of its share there has lost it.

    Args:
        network: from `read_network`.
        engine: from `read_inspector`.

    Returns:
        The network's findings where the inspector names no product, else the inspector's.
    """
    if not engine.products:
        return network
    asked = network.precision
    kept = _share(engine, asked) >= _share(network, asked) / 2
    return replace(engine, precision=asked) if kept else engine


def _share(found: Found, precision: str) -> float:
    return found.products.get(precision, 0) / max(sum(found.products.values()), 1)


def _multiplies(layer: dict[str, Any]) -> bool:
    fields = (layer.get("LayerType"), layer.get("ParameterType"), layer.get("TacticName"))
    return any(word in str(field).lower() for field in fields for word in _COMPUTE)


def _types(layer: dict[str, Any]) -> Iterator[str]:
    """Element types of a layer's inputs, in order, those known."""
    for tensor in layer.get("Inputs", []):
        words = str(tensor.get("Format/Datatype", tensor.get("Format", ""))).lower().split()
        yield from (_SPELLINGS[word] for word in words if word in _SPELLINGS)


def _most(counts: Counter[str]) -> str:
    best = counts.most_common(1)
    return best[0][0] if best and best[0][1] else ""
