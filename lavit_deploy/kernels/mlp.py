"""The operator `lavit::fused_mlp`: x + fc2(GELU(fc1(LayerNorm(x)))) for narrow tokens.

On CUDA one Triton kernel, which never writes the hidden layer to memory; elsewhere PyTorch
operators. Inference only: there is no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lavit_deploy.common.errors import MissingDependencyError, UsageError
from lavit_deploy.kernels.registration import triton_operator
from lavit_deploy.kernels.tile_sizes import MlpTile, mlp_tile

WIDTHS = (16, 32, 64, 128)
"""Channels D that the kernel takes. With more, tokens and output no longer fit into registers, and
the hidden layer is a smaller part of the traffic."""

# ruff: noqa: PLR0917 -- an operator's arguments have an order, that of its schema

_TYPES = (torch.float16, torch.bfloat16, torch.float32)


@triton_operator("lavit::fused_mlp")
def fused_mlp(
    x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, eps: float
) -> Tensor:
    """A residual MLP: x + W2 GELU(W1 LayerNorm(x) + b1) + b2.

    The LayerNorm has no affine: folding moves it into W1 and b1. Statistics, GELU and sums are
    float32, operands of the products of the weights' type. On CUDA, GELU is a polynomial where they
    are half precision, within 1e-4 of the one by erf.

    Args:
        x: tokens [..., D], the residual stream.
        weight1: W1, [hidden, D].
        bias1: b1, [hidden].
        weight2: W2, [D, hidden], of the type of `weight1`.
        bias2: b2, [D].
        eps: epsilon of the LayerNorm.

    Returns:
        [..., D] of the type of `x`.

    Raises:
        UsageError: shapes or types do not fit; on CUDA, D is not one of `WIDTHS`.
    """
    _check(x, weight1, bias1, weight2, bias2)
    if x.device.type == "cuda":
        return launch(x, weight1, bias1, weight2, bias2, eps)
    wide = torch.promote_types(x.dtype, torch.float32)
    kind = weight1.dtype
    normed = functional.layer_norm(x.to(wide), x.shape[-1:], eps=eps).to(kind)
    hidden = functional.linear(normed, weight1, bias1.to(kind))
    active = functional.gelu(hidden.to(wide)).to(kind)
    return (x.to(wide) + functional.linear(active, weight2, bias2.to(kind)).to(wide)).to(x.dtype)


def launch(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    eps: float,
    *,
    tile: MlpTile | None = None,
) -> Tensor:
    """Run the Triton kernel, on CUDA, or on a CPU under Triton's interpreter.

    Arguments and errors as of `fused_mlp`; `tile` replaces the kernel's constants, which are those
    of `mlp_tile` if it is None.

    Raises:
        MissingDependencyError: Triton is not installed.
    """
    try:
        from lavit_deploy.kernels.mlp_triton import fused_mlp_kernel
    except ImportError:
        raise MissingDependencyError(
            "triton", extra="plugin", purpose="run the fused MLP on a GPU"
        ) from None
    hidden, dim = weight1.shape
    if dim not in WIDTHS:
        raise UsageError(f"fused_mlp: {dim} channels; the kernel takes {list(WIDTHS)}")
    if x.dtype not in _TYPES or weight1.dtype not in _TYPES:
        raise UsageError(
            f"fused_mlp: tokens are {x.dtype}, weights {weight1.dtype}; the kernel takes "
            "float16, bfloat16 and float32"
        )
    x = x.contiguous()
    out = torch.empty_like(x)
    rows = x.numel() // dim
    tile = tile or mlp_tile(dim, half=weight1.dtype != torch.float32)
    blocks = (rows + tile.block_rows - 1) // tile.block_rows
    torch.library.wrap_triton(fused_mlp_kernel)[(blocks,)](
        x,
        weight1.contiguous(),
        bias1.contiguous(),
        weight2.contiguous(),
        bias2.contiguous(),
        out,
        rows,
        hidden,
        eps,
        DIM=dim,
        **tile.constants(),
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return out


def _check(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> None:
    dim = x.shape[-1]
    if weight1.ndim != 2 or weight1.shape[1] != dim:
        raise UsageError(
            f"fused_mlp: weight1 is {list(weight1.shape)}, expected [hidden, {dim}] beside "
            f"tokens {list(x.shape)}"
        )
    hidden = weight1.shape[0]
    expected = (
        ("bias1", bias1, (hidden,)),
        ("weight2", weight2, (dim, hidden)),
        ("bias2", bias2, (dim,)),
    )
    for name, given, wanted in expected:
        if tuple(given.shape) != wanted:
            raise UsageError(
                f"fused_mlp: {name} is {list(given.shape)}, expected {list(wanted)} beside "
                f"weight1 {list(weight1.shape)}"
            )
    if weight1.dtype != weight2.dtype:
        raise UsageError(
            f"fused_mlp: weight1 is {weight1.dtype}, weight2 {weight2.dtype}; "
            "they must be of one type"
        )
