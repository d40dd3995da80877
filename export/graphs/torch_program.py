"""A model as PyTorch's exported program, and what precision such a program computes in."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import Node

from lavit_deploy.common.errors import ExportError
from lavit_deploy.families.family import Configuration
from lavit_deploy.manifest import BatchRange, Device

_COMPUTE = ("linear", "matmul", "mm", "addmm", "bmm", "conv2d", "convolution")
"""Operators of a program whose type decides what it computes in; their first two arguments are
the factors."""

_FUSED_MLP = "fused_mlp"
"""Two products in one operator; its arguments are tokens, weight1, bias1, weight2, bias2."""

_TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


def exported(
    module: nn.Module, config: Configuration, batch: BatchRange, device: Device
) -> ExportedProgram:
    """The model's graph with a dynamic batch.

    Raises:
        ExportError: PyTorch could not trace it.
    """
    height, width = config.image_size
    channels = config.in_channels
    # Two images, because torch.export treats a size of one as a constant.
    example = torch.zeros(2, height, width, channels, dtype=torch.uint8, device=device)
    dimension = torch.export.Dim("batch", min=1, max=max(batch.maximum, 2))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(module, (example,), dynamic_shapes=({0: dimension},))
    except Exception as error:
        raise ExportError(f"PyTorch could not export the model: {error}") from error


def compute_types(program: ExportedProgram) -> Counter[str]:
    """Number of matrix products and convolutions of a program by element type."""
    return Counter(_type_of(factors[-1]) for factors in _products(program))


def precision_found(program: ExportedProgram) -> str:
    """The precision that a program computes in: the type of most weights of its products.

    As for ONNX graphs (`graphs.precision.precision_found`), weights count, and not operators.
    """
    weights: Counter[str] = Counter()
    for factors in _products(program):
        for factor in factors:
            if isinstance(factor, Node) and factor.op == "placeholder":
                weights[_type_of(factor)] += factor.meta["val"].numel()
    return weights.most_common(1)[0][0] if weights else "none"


def _products(program: ExportedProgram) -> Iterator[tuple[object, ...]]:
    """The factors of every product; the last one's type is what it computes in."""
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        name = node.target.__name__.split(".")[0]
        if name in _COMPUTE:
            yield node.args[:2]
        elif name == _FUSED_MLP:  # tokens are rounded to the weights' type within
            yield (node.args[1],)
            yield (node.args[3],)


def _type_of(factor: object) -> str:
    dtype = factor.meta["val"].dtype  # type: ignore[attr-defined] # a node of the graph
    return _TYPES.get(dtype, str(dtype))
