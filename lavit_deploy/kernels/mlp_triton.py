# Triton reads a kernel's arguments by its own rules: tensors and sizes have no annotation, and
# constants of a compilation are written in capitals.
# ruff: noqa: ANN001, ANN201, N803, PLR0917
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""The MLP kernel for narrow stages: x + fc2(GELU(fc1(LayerNorm(x)))) in one pass.

Where D is 64 or 128 the hidden layer is eight times as wide, and writing and reading it is most of
what an MLP costs. A program keeps `BLOCK_ROWS` tokens and goes over the hidden channels: a block of
them is computed, passed through GELU, multiplied into the output and forgotten. The weights come
from cache, since every program reads the same.

Sums, LayerNorm and GELU are float32; products have the operands' half precision, or three TF32
products where the weights are float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

_SQRT_HALF = tl.constexpr(0.7071067811865476)


@triton.jit
def fused_mlp_kernel(
    x,  # [rows, D], contiguous
    weight1,  # [hidden, D], contiguous; LayerNorm's affine is folded into it
    bias1,  # [hidden], contiguous
    weight2,  # [D, hidden], contiguous, of weight1's type
    bias2,  # [D], contiguous
    out,  # [rows, D], contiguous, of x's type
    rows,
    hidden,
    eps,
    DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
):
    """Grid: (blocks of rows,)."""
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.arange(0, DIM)
    places = row[:, None].to(tl.int64) * DIM + column[None, :]
    tokens = tl.load(x + places, mask=row[:, None] < rows, other=0.0).to(tl.float32)
    centred = tokens - tl.sum(tokens, axis=1)[:, None] / DIM
    variance = tl.sum(centred * centred, axis=1) / DIM
    normed = (centred * tl.rsqrt(variance + eps)[:, None]).to(weight1.dtype.element_ty)

    total = tokens + tl.load(bias2 + column).to(tl.float32)[None, :]
    for start in range(0, hidden, BLOCK_HIDDEN):
        unit = start + tl.arange(0, BLOCK_HIDDEN)
        # [BLOCK_ROWS, D] x [D, BLOCK_HIDDEN]
        w1 = tl.load(
            weight1 + unit[None, :] * DIM + column[:, None], mask=unit[None, :] < hidden, other=0.0
        )
        bias = tl.load(bias1 + unit, mask=unit < hidden, other=0.0).to(tl.float32)
        z = tl.dot(normed, w1, input_precision="tf32x3") + bias[None, :]
        active = 0.5 * z * (1.0 + tl.erf(z * _SQRT_HALF))
        # [BLOCK_ROWS, BLOCK_HIDDEN] x [BLOCK_HIDDEN, D]; units beyond the last weigh nothing
        w2 = tl.load(
            weight2 + column[None, :] * hidden + unit[:, None],
            mask=unit[:, None] < hidden,
            other=0.0,
        )
        total = tl.dot(active.to(w2.dtype), w2, total, input_precision="tf32x3")
    tl.store(out + places, total.to(out.dtype.element_ty), mask=row[:, None] < rows)
