"""Multiply-adds of each operator that has any, from the shapes in a traced graph.

One multiply and one add are one operation. Handles have fvcore's signature: the graph values that
go in and come out. fvcore's own handles are not used: it has none for
`scaled_dot_product_attention` and `_convolution_mode`, its `matmul` counts a 2-D matrix times a
batched one too low by the batch, and it adds norms, which no published count contains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from fvcore.nn.jit_handles import get_shape

from lavit_deploy.common.errors import ProfileError

Value = Any
"""A value of a traced graph (`torch._C.Value`, which PyTorch does not export)."""

Handle = Callable[[Sequence[Value], Sequence[Value]], int]


def matrix_product(inputs: Sequence[Value], outputs: Sequence[Value]) -> int:
    """`matmul`, `mm`, `bmm`, `mv`, `dot`: every output element sums over the inner size.

    Right for every broadcast: the output has the batch, whichever operand lacks it.
    """
    return math.prod(get_shape(outputs[0])) * get_shape(inputs[0])[-1]


def biased_matrix_product(inputs: Sequence[Value], outputs: Sequence[Value]) -> int:
    """`addmm`, `baddbmm`, `addmv`: the bias comes first."""
    return matrix_product(inputs[1:], outputs)


def linear(inputs: Sequence[Value], outputs: Sequence[Value]) -> int:
    """`linear`: [..., I] with weight [O, I]."""
    return matrix_product(inputs, outputs)


def convolution(inputs: Sequence[Value], outputs: Sequence[Value]) -> int:
    """`_convolution`: each output element sums over one filter [O, I / groups, *kernel].

    A transposed one spreads each input element over the filter instead.
    """
    transposed = inputs[6].toIValue()
    weight = get_shape(inputs[1])
    elements = get_shape(inputs[0] if transposed else outputs[0])
    return math.prod(elements) * math.prod(weight[1:])


def padded_convolution(inputs: Sequence[Value], outputs: Sequence[Value]) -> int:
    """`_convolution_mode`: padding given as "same" or "valid"; never transposed."""
    return math.prod(get_shape(outputs[0])) * math.prod(get_shape(inputs[1])[1:])


def fused_attention(inputs: Sequence[Value], _outputs: Sequence[Value]) -> int:
    """`scaled_dot_product_attention`: Q K^T, then its product with V, as the eager form does.

    Query [..., L, E], key [..., S, E], value [..., S, F]. A causal mask does not halve it, as it
    does not in the eager form.
    """
    *batch, queries, width = get_shape(inputs[0])
    keys, value_width = get_shape(inputs[2])[-2:]
    return math.prod(batch) * queries * keys * (width + value_width)


def einsum(inputs: Sequence[Value], _outputs: Sequence[Value]) -> int:
    """`einsum` of two operands: the product of the sizes of all letters.

    Raises:
        ProfileError: another number of operands, or an ellipsis.
    """
    equation = inputs[0].toIValue().replace(" ", "")
    operands = equation.partition("->")[0].split(",")
    shapes = [get_shape(value) for value in inputs[1].node().inputs()]
    if len(operands) != 2 or "." in equation:
        raise ProfileError(
            f"einsum {equation!r} cannot be counted: only two operands without an ellipsis can"
        )
    sizes = {
        letter: size
        for letters, shape in zip(operands, shapes, strict=True)
        for letter, size in zip(letters, shape, strict=True)
    }
    return math.prod(sizes.values())


def less_attention_by_part(inputs: Sequence[Value], _outputs: Sequence[Value]) -> Mapping[str, int]:
    """`lavit::less_attention`: softmax(P S T^T + C) V in one operator, by part.

    Scores [B, H, N, M] are mapped along queries (N x N) and along keys (M x M), then mix values
    [B, H, M, d]; P, T and C come between the two.
    """
    *batch, queries, keys = get_shape(inputs[0])
    maps = math.prod(batch) * queries * keys
    return {
        "la_transform": maps * (queries + keys),
        "attention_scores_values": maps * get_shape(inputs[4])[-1],
    }


def less_attention(inputs: Sequence[Value], outputs: Sequence[Value]) -> int:
    """Both parts of `less_attention_by_part` together."""
    return sum(less_attention_by_part(inputs, outputs).values())


def elements(_inputs: Sequence[Value], outputs: Sequence[Value]) -> int:
    """Elements that an operator writes: the measure for those without multiply-adds."""
    return sum(math.prod(get_shape(value) or ()) for value in tensors(outputs))


def bytes_moved(inputs: Sequence[Value], outputs: Sequence[Value]) -> int:
    """Bytes that an operator reads, weights included, and writes, if nothing stays in a cache."""
    return sum(
        math.prod(get_shape(value) or ()) * value.type().dtype().itemsize
        for value in (*tensors(inputs), *tensors(outputs))
    )


def tensors(values: Sequence[Value]) -> Iterator[Value]:
    """The tensors of known shape among values, those within a list (`cat`, `index`) included."""
    for value in values:
        if is_tensor(value):
            yield value
        elif value.node().kind() == "prim::ListConstruct":
            yield from tensors(list(value.node().inputs()))


def is_tensor(value: Value) -> bool:
    """Whether a graph value is a tensor of known shape."""
    return isinstance(value.type(), torch.TensorType) and value.isCompleteTensor()


HANDLES: Mapping[str, Handle] = MappingProxyType(
    {
        "aten::matmul": matrix_product,
        "aten::mm": matrix_product,
        "aten::bmm": matrix_product,
        "aten::mv": matrix_product,
        "aten::dot": matrix_product,
        "aten::addmm": biased_matrix_product,
        "aten::addmv": biased_matrix_product,
        "aten::baddbmm": biased_matrix_product,
        "aten::linear": linear,
        "aten::einsum": einsum,
        "aten::_convolution": convolution,
        "aten::_convolution_mode": padded_convolution,
        "aten::scaled_dot_product_attention": fused_attention,
        "lavit::less_attention": less_attention,
        "lavit::less_attention_with_scores": less_attention,
    }
)
"""Operators that are matrix products or convolutions, and how to count them."""

DIVIDED: Mapping[str, Callable[[Sequence[Value], Sequence[Value]], Mapping[str, int]]] = (
    MappingProxyType(
        {
            "lavit::less_attention": less_attention_by_part,
            "lavit::less_attention_with_scores": less_attention_by_part,
        }
    )
)
"""Operators that do the work of several parts, whatever module they run in."""

_FREE_OF_PRODUCTS = {
    "normalisation: a few operations per element": (
        "layer_norm", "batch_norm", "group_norm", "instance_norm", "rms_norm", "linalg_vector_norm",
    ),
    "softmax: an exponential and a division per score": ("softmax", "log_softmax"),
    "activation: one function per element": (
        "gelu", "silu", "silu_", "sigmoid", "tanh", "hardswish", "hardsigmoid", "relu", "relu_",
        "relu6", "leaky_relu",
    ),
    "elementwise: at most one operation per element": (
        "add", "add_", "sub", "rsub", "mul", "mul_", "div", "div_", "neg", "pow", "sqrt", "rsqrt",
        "exp", "log", "floor", "clamp", "clamp_", "ne", "eq", "lt", "le", "gt", "ge", "min", "max",
        "where", "masked_fill_", "bernoulli_", "remainder",
    ),
    "reduction: one addition per element": (
        "mean", "sum", "var", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "avg_pool2d",
        "max_pool2d",
    ),
    "sorting: comparisons only": ("sort", "argsort", "topk"),
    "interpolation: a few operations per element": (
        "upsample_bilinear2d", "upsample_bicubic2d", "upsample_nearest2d", "grid_sampler",
    ),
    "copy: no arithmetic": (
        "pad", "constant_pad_nd", "clone", "contiguous", "copy_", "cat", "stack", "repeat", "roll",
        "index", "index_put_", "gather", "scatter_reduce", "lift_fresh", "fill_", "meshgrid",
        "nonzero", "new_ones", "new_empty", "new_zeros",
    ),
}  # fmt: skip

REASONS: Mapping[str, str] = MappingProxyType(
    {f"aten::{name}": reason for reason, names in _FREE_OF_PRODUCTS.items() for name in names}
)
"""Why an operator without a handle may stay uncounted. One in neither table may hide a product.

Operators that only change how a tensor is looked at (`transpose`, `view`) are in neither, and are
not reported: fvcore leaves them out. `reshape` is among them, also where it has to copy.
"""

VIEWS = ("aten::expand_as", "aten::unflatten", "aten::view_as", "aten::alias")
"""Such operators that fvcore does not know."""
