# Triton reads a kernel's arguments by its own rules: tensors and sizes have no annotation, and
# constants of a compilation are written in capitals.
# ruff: noqa: ANN001, ANN201, ANN202, N803, PLR0917
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""The less-attention kernel: softmax(P S T^T + C) V for a block of rows of one head, in one pass.

This is the one source of it. `less_attention.py` launches it from PyTorch, and the TensorRT plugin
(`export/plugins/`) what `export/plugins/compile_kernels.py` compiles of it ahead of time.

A program computes `BLOCK_N` rows of one head. It reads its rows of P and all of S once, keeps
U = P S in registers, and goes over the keys as flash attention does (Dao et al., 2022,
arXiv:2205.14135): a block of A = U T^T + C, the softmax so far rescaled, and its share of A V
added. Nothing of size N x M is written to device memory unless the new scores are asked for.

All sums are float32, and T and C are given in it. What the tensor cores multiply (`PRODUCTS`):
- half-precision scores: S as it is, and P too, or as a sum of two of S's type where P is float32;
  U and T in TF32, since U can leave float16's range;
- float32 scores, half-precision values: P, S, U and T as sums of two bfloat16 each, 16 bits of
  significand together, three products ("bf16x3");
- float32 throughout: sums of two TF32, 21 bits, three products ("tf32x3").
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _mixed_queries(
    scores,
    queries,
    rows,
    cols,
    n,
    m,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    ALIGN_N: tl.constexpr,
    PRODUCTS: tl.constexpr,
):
    """U = P S for these rows and columns: [BLOCK_N, BLOCK_M], float32."""
    n = n // ALIGN_N * ALIGN_N  # the same number; tells the compiler that rows are aligned
    total = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    for start in range(0, n, BLOCK_K):
        inner = start + tl.arange(0, BLOCK_K)
        p = tl.load(
            queries + rows[:, None] * n + inner[None, :],
            mask=(rows[:, None] < n) & (inner[None, :] < n),
            other=0.0,
        )
        s = tl.load(
            scores + inner[:, None] * m + cols[None, :],
            mask=(inner[:, None] < n) & (cols[None, :] < m),
            other=0.0,
        )
        if p.dtype != s.dtype:
            near = p.to(s.dtype)
            total = tl.dot((p - near.to(p.dtype)).to(s.dtype), s, total)
            total = tl.dot(near, s, total)
        else:
            total = tl.dot(p, s, total, input_precision=PRODUCTS)
    return total


@triton.jit
def _mixed_keys(
    mixed,
    keys,
    cols,
    outer,
    m,
    total,
    PRODUCTS: tl.constexpr,
):
    """U T^T added to `total`: [BLOCK_N, BLOCK_M] x [BLOCK_M, BLOCK_J], float32."""
    t = tl.load(
        keys + outer[None, :] * m + cols[:, None],
        mask=(outer[None, :] < m) & (cols[:, None] < m),
        other=0.0,
    )
    return tl.dot(mixed, t, total, input_precision=PRODUCTS)


@triton.jit
def _attend(
    scores,
    queries,
    keys,
    constant,
    values,
    new_scores,
    n,
    m,
    dim,
    value_row,
    write_scores,
    rows,
    channels,
    outer,  # the keys of this step
    mixed,  # U, if SINGLE
    largest,  # of the scores so far, by row
    denominator,  # of the softmax so far, by row
    total,  # of the weighted values so far
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    ALIGN_N: tl.constexpr,
    SINGLE: tl.constexpr,
    PRODUCTS: tl.constexpr,
):
    """One step of the softmax: `largest`, `denominator` and `total` with these keys."""
    # Of half-precision values it says nothing: they are multiplied as they are.
    exact: tl.constexpr = "tf32x3"
    every = tl.arange(0, BLOCK_M)
    inside = (rows[:, None] < n) & (outer[None, :] < m)
    places = rows[:, None] * m + outer[None, :]
    a = tl.load(constant + places, mask=inside, other=0.0)
    if SINGLE:
        a = _mixed_keys(mixed, keys, every, outer, m, a, PRODUCTS)
    else:
        # Pipelining loads around the inner loop would cost the registers of its sums.
        for first in tl.range(0, m, BLOCK_M, num_stages=1):
            cols = first + every
            part = _mixed_queries(
                scores, queries, rows, cols, n, m, BLOCK_N, BLOCK_K, BLOCK_M, ALIGN_N, PRODUCTS
            )
            a = _mixed_keys(part, keys, cols, outer, m, a, PRODUCTS)
    if (write_scores != 0) & (tl.program_id(1) == 0):
        kept = a
        if new_scores.dtype.element_ty == tl.float16:  # the largest number instead of infinity
            kept = tl.minimum(tl.maximum(a, -65504.0), 65504.0)
        tl.store(new_scores + places, kept.to(new_scores.dtype.element_ty), mask=inside)
    a = tl.where(outer[None, :] < m, a, float("-inf"))
    # Every step has at least one key, so `seen` is finite.
    seen = tl.maximum(largest, tl.max(a, axis=1))
    shares = tl.exp(a - seen[:, None])
    fading = tl.exp(largest - seen)
    denominator = denominator * fading + tl.sum(shares, axis=1)
    v = tl.load(
        values + outer[:, None] * value_row + channels[None, :],
        mask=(outer[:, None] < m) & (channels[None, :] < dim),
        other=0.0,
    )
    total = tl.dot(shares.to(v.dtype), v, total * fading[:, None], input_precision=exact)
    return seen, denominator, total


@triton.jit
def less_attention_kernel(
    scores,  # S [B, H, N, M], contiguous
    queries,  # P [N, N], contiguous, of S's type or float32
    keys,  # T [M, M], contiguous, float32
    constant,  # C [N, M], contiguous, float32
    values,  # V [B, H, M, d], channels contiguous
    out,  # [B, H, N, d], channels contiguous, of V's type
    new_scores,  # A [B, H, N, M], contiguous, of S's type; where asked for
    n,
    m,
    dim,
    heads,
    value_batch,  # strides of values, in numbers
    value_head,
    value_row,
    out_batch,  # strides of out, in numbers
    out_head,
    out_row,
    write_scores,  # 1 to write new_scores, else 0
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ALIGN_N: tl.constexpr,
    SINGLE: tl.constexpr,
    PRODUCTS: tl.constexpr,
    TOKENS: tl.constexpr = 0,
    KEYS: tl.constexpr = 0,
    CHANNELS: tl.constexpr = 0,
):
    """Grid: (B * H * blocks of rows, blocks of channels). See `tile_sizes.Tile` for the constants.

    Code for one shape alone is smaller: TOKENS, KEYS and CHANNELS are n, m and dim where they are
    known when it is compiled, else 0.
    """
    if TOKENS:
        n = TOKENS
    if KEYS:
        m = KEYS
    if CHANNELS:
        dim = CHANNELS
    # Blocks of rows of one head run side by side, so that its scores stay in cache.
    blocks = tl.cdiv(n, BLOCK_N)
    image_head = tl.program_id(0) // blocks
    rows = tl.program_id(0) % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    channels = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    offset = image_head.to(tl.int64) * n * m
    scores += offset
    new_scores += offset
    image, head = (image_head // heads).to(tl.int64), (image_head % heads).to(tl.int64)
    values += image * value_batch + head * value_head
    out += image * out_batch + head * out_head

    largest = tl.full((BLOCK_N,), float("-inf"), dtype=tl.float32)
    denominator = tl.zeros((BLOCK_N,), dtype=tl.float32)
    total = tl.zeros((BLOCK_N, BLOCK_D), dtype=tl.float32)
    mixed = None
    if SINGLE:
        every = tl.arange(0, BLOCK_M)
        mixed = _mixed_queries(
            scores, queries, rows, every, n, m, BLOCK_N, BLOCK_K, BLOCK_M, ALIGN_N, PRODUCTS
        )
    if SINGLE and BLOCK_J >= BLOCK_M:  # one step, without a loop
        outer = tl.arange(0, BLOCK_J)
        largest, denominator, total = _attend(
            scores, queries, keys, constant, values, new_scores, n, m, dim, value_row,
            write_scores, rows, channels, outer, mixed, largest, denominator, total,
            BLOCK_N, BLOCK_K, BLOCK_M, ALIGN_N, SINGLE, PRODUCTS,
        )  # fmt: skip
    else:
        for start in tl.range(0, m, BLOCK_J, num_stages=1):
            outer = start + tl.arange(0, BLOCK_J)
            largest, denominator, total = _attend(
                scores, queries, keys, constant, values, new_scores, n, m, dim, value_row,
                write_scores, rows, channels, outer, mixed, largest, denominator, total,
                BLOCK_N, BLOCK_K, BLOCK_M, ALIGN_N, SINGLE, PRODUCTS,
            )  # fmt: skip
    tl.store(
        out + rows[:, None] * out_row + channels[None, :],
        (total / denominator[:, None]).to(out.dtype.element_ty),
        mask=(rows[:, None] < n) & (channels[None, :] < dim),
    )
