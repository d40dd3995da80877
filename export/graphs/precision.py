"""Mixed precision: made in the model before export, and read back from the graph after it.

Precision lives in the graph, as casts, because current TensorRT and ONNX Runtime compute what the
graph says. Linear layers and convolutions run in half precision, except those that the model's
family keeps in float32. Of a LaViT, the products Q K^T and A V and GELU run in half precision
too; what loses accuracy there stays float32: the residual stream, LayerNorm, the scores and their
transforms (Eq. 5 to 7), softmax, pooling and the classifier.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from lavit_deploy.families.catalogue import config_of, family_of
from lavit_deploy.manifest import Precision

if TYPE_CHECKING:
    import onnx

COMPUTE_OPS = ("MatMul", "Gemm", "Conv")
"""Operators whose element type decides what precision a graph computes in."""

_Model = TypeVar("_Model", bound=nn.Module)

_TORCH_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class _HalfLinear(nn.Module):
    """A Linear layer whose weights, input and output are in half precision."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().to(dtype), requires_grad=False)
        self.bias = _half_bias(linear.bias, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x.to(self.weight.dtype), self.weight, self.bias)


class _HalfConv(nn.Module):
    """A convolution in half precision; its output returns to float32 for the norm after it."""

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.stride, self.padding = conv.stride, conv.padding
        self.dilation, self.groups = conv.dilation, conv.groups
        self.weight = nn.Parameter(conv.weight.detach().to(dtype), requires_grad=False)
        self.bias = _half_bias(conv.bias, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(
            x.to(self.weight.dtype),
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        ).float()


def _half_bias(bias: Tensor | None, dtype: torch.dtype) -> nn.Parameter | None:
    return None if bias is None else nn.Parameter(bias.detach().to(dtype), requires_grad=False)


def to_precision(model: _Model, precision: Precision) -> _Model:
    """A copy of `model` that computes in `precision`; for "fp32", `model` itself.

    Args:
        model: float32, of any family, folded or not, in evaluation mode.
        precision: "fp32", "fp16" or "bf16".
    """
    if precision == "fp32":
        return model
    mixed = copy.deepcopy(model)
    kept = family_of(config_of(model)).float32_modules(mixed)
    _halve(mixed, "", kept, _TORCH_TYPES[precision])
    return mixed


def _halve(module: nn.Module, prefix: str, kept: frozenset[str], dtype: torch.dtype) -> None:
    for name, child in module.named_children():
        path = prefix + name
        if path in kept:
            continue
        if isinstance(child, nn.Linear):
            setattr(module, name, _HalfLinear(child, dtype))
        elif isinstance(child, nn.Conv2d):
            setattr(module, name, _HalfConv(child, dtype))
        else:
            _halve(child, f"{path}.", kept, dtype)


_ONNX_NAMES = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16", "DOUBLE": "fp64"}


def compute_types(model: onnx.ModelProto) -> Counter[str]:
    """Number of matrix products and convolutions of a graph by element type.

    Args:
        model: a graph with inferred types.
    """
    types = element_types(model)
    return Counter(types[node.input[0]] for node in model.graph.node if node.op_type in COMPUTE_OPS)


def precision_found(model: onnx.ModelProto) -> str:
    """The precision that the graph computes in: the type of most weights of its products.

    Weights and not nodes are counted, because a graph with every large layer left in float32 must
    not pass for a half-precision one on the strength of its many small products.

    Args:
        model: a graph with inferred types.
    """
    sizes = {item.name: _size(item.dims) for item in model.graph.initializer}
    types = element_types(model)
    weights: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type in COMPUTE_OPS:
            for name in node.input[:2]:
                weights[types[name]] += sizes.get(name, 0)
    return weights.most_common(1)[0][0] if weights else "none"


def _size(dims: object) -> int:
    product = 1
    for dim in dims:  # type: ignore[attr-defined] # protobuf's repeated field
        product *= dim
    return product


def element_types(model: onnx.ModelProto) -> dict[str, str]:
    """Element type of every value by name, such as "fp16"; others by their ONNX name."""
    from onnx import TensorProto

    def name_of(kind: int) -> str:
        name = TensorProto.DataType.Name(kind)
        return _ONNX_NAMES.get(name, name.lower())

    graph = model.graph
    values = [*graph.input, *graph.value_info, *graph.output]
    types = {value.name: name_of(value.type.tensor_type.elem_type) for value in values}
    types.update((item.name, name_of(item.data_type)) for item in graph.initializer)
    return types
