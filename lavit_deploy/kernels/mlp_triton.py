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

GELU by erf is most of the kernel's instructions. Half-precision weights get an odd polynomial for
erf(z / sqrt(2)) up to |z| = 4.1, 1 beyond: eight terms, found by linear programming so that the
largest error of GELU is least, which is 9e-5. bfloat16 rounds z = 1 by 4e-3, float16 by 5e-4.
"""

from __future__ import annotations

import triton
import triton.language as tl

_SQRT_HALF = tl.constexpr(0.7071067811865476)
_LARGEST = tl.constexpr(4.1)


@triton.jit
def gelu_of_half(z):
    """GELU, z (1 + erf(z / sqrt(2))) / 2, within 1e-4; z is float32."""
    inner = tl.minimum(tl.maximum(z, -_LARGEST), _LARGEST)
    square = inner * inner
    erf = -1.775719632184751e-09
    erf = erf * square + 1.5601012172329482e-07
    erf = erf * square - 5.973586280817992e-06
    erf = erf * square + 1.320012920462286e-04
    erf = erf * square - 1.885283368052776e-03
    erf = erf * square + 1.852313511381996e-02
    erf = erf * square - 1.309048312675875e-01
    erf = erf * square + 7.968306392010841e-01
    half = 0.5 * z
    return half + half * (erf * inner)


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
    POLYNOMIAL: tl.constexpr,
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
        if POLYNOMIAL:  # noqa: SIM108 - Triton compiles the branch that is taken, not an expression
            active = gelu_of_half(z)
        else:
            active = 0.5 * z * (1.0 + tl.erf(z * _SQRT_HALF))
        # [BLOCK_ROWS, BLOCK_HIDDEN] x [BLOCK_HIDDEN, D]; units beyond the last weigh nothing
        w2 = tl.load(
            weight2 + column[None, :] * hidden + unit[:, None],
            mask=unit[:, None] < hidden,
            other=0.0,
        )
        total = tl.dot(active.to(w2.dtype), w2, total, input_precision="tf32x3")
    tl.store(out + places, total.to(out.dtype.element_ty), mask=row[:, None] < rows)
