"""PyTorch layers from given weights."""

from __future__ import annotations

from torch import Tensor, nn


def linear_from(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A frozen Linear layer.

    Args:
        weight: [outputs, inputs].
        bias: [outputs], or None for a plain matrix product.
    """
    outputs, inputs = weight.shape
    linear = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach().contiguous(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().contiguous(), requires_grad=False)
    return linear
