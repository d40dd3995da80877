"""The operators `lavit::less_attention` and `lavit::less_attention_with_scores`.

Both compute softmax(P S T^T + C) V, a less-attention layer (Eq. 5) in its collapsed form; the
second also gives the new scores A = P S T^T + C, which the next stage's attention residual reads.
On CUDA they are one Triton kernel, which `torch.compile` and AOTInductor see and compile with the
rest of a graph; elsewhere they are PyTorch operators. Inference only: there is no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lavit_deploy.common.errors import MissingDependencyError, UsageError
from lavit_deploy.kernels.registration import triton_operator
from lavit_deploy.kernels.tile_sizes import Tile, Types, tile_for


@triton_operator("lavit::less_attention")
def less_attention(
    scores: Tensor, queries: Tensor, keys: Tensor, constant: Tensor, values: Tensor
) -> Tensor:
    """softmax(P S T^T + C) V.

    Sums and the softmax are float32 (on a CPU float64 where `scores` are). On CUDA `values` are
    float16, bfloat16 or float32, and `scores` of the same type or float32.

    Args:
        scores: S, pre-softmax scores of the last vanilla layer, [B, H, N, M].
        queries: P, [N, N], of the type of `scores` or float32, in which nothing of it is lost.
        keys: T, [M, M], best in float32, which it is used in.
        constant: C, [N, M], best in float32.
        values: V, [B, H, M, d]; any strides.

    Returns:
        [B, H, N, d] of the type of `values`, laid out in memory as [B, N, H, d], so that joining
        the heads moves nothing.

    Raises:
        UsageError: shapes or types do not fit each other.
    """
    _check(scores, queries, keys, constant, values)
    if scores.device.type == "cuda":
        return launch(scores, queries, keys, constant, values, with_scores=False)[0]
    return _mix(_transform(scores, queries, keys, constant), values)


@triton_operator("lavit::less_attention_with_scores")
def less_attention_with_scores(
    scores: Tensor, queries: Tensor, keys: Tensor, constant: Tensor, values: Tensor
) -> tuple[Tensor, Tensor]:
    """softmax(A) V and A = P S T^T + C; arguments and errors as of `less_attention`.

    Returns:
        [B, H, N, d] as `less_attention` does, and A [B, H, N, M] of the type of `scores`. In
        float16, what exceeds its range becomes its largest number, not infinity.
    """
    _check(scores, queries, keys, constant, values)
    if scores.device.type == "cuda":
        return launch(scores, queries, keys, constant, values, with_scores=True)
    new_scores = _transform(scores, queries, keys, constant)
    mixed = _mix(new_scores, values)
    if scores.dtype == torch.float16:
        limit = torch.finfo(torch.float16).max
        new_scores = new_scores.clamp(-limit, limit)
    # `clone` where the type is the same would be a copy for nothing: `_transform` made it new.
    return mixed, new_scores.to(scores.dtype)


def launch(
    scores: Tensor,
    queries: Tensor,
    keys: Tensor,
    constant: Tensor,
    values: Tensor,
    *,
    with_scores: bool,
    tile: Tile | None = None,
    any_shape: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run the Triton kernel, on CUDA, or on a CPU under Triton's interpreter.

    Operands and errors are those of `less_attention`. `with_scores` writes the new scores; `tile`
    replaces the kernel's constants, which are those of `tile_for` if it is None; `any_shape` runs
    the plugin's code, which is told N, M and d by arguments and not when it is compiled.

    Returns:
        The mixed values, and the new scores; these are empty without `with_scores`.

    Raises:
        MissingDependencyError: Triton is not installed.
    """
    try:
        from lavit_deploy.kernels.less_attention_triton import less_attention_kernel
    except ImportError:
        raise MissingDependencyError(
            "triton", extra="plugin", purpose="run less-attention on a GPU"
        ) from None
    types = _types(scores, values)
    images, heads, tokens, m = scores.shape
    dim = values.shape[3]
    tile = tile or tile_for(tokens, m, types)
    values = values if values.stride(3) == 1 else values.contiguous()
    out = _like_joined_heads(values, tokens)
    # One number stands for scores that are not asked for: the kernel wants an address.
    new_scores = (
        torch.empty_like(scores, memory_format=torch.contiguous_format)
        if (with_scores)
        else scores.new_empty(1)
    )
    grid = (
        images * heads * _blocks(tokens, tile.block_n),
        _blocks(dim, tile.block_d),
    )
    torch.library.wrap_triton(less_attention_kernel)[grid](
        scores.contiguous(),
        queries.contiguous(),
        keys.float().contiguous(),
        constant.float().contiguous(),
        values,
        out,
        new_scores,
        tokens,
        m,
        dim,
        heads,
        values.stride(0),
        values.stride(1),
        values.stride(2),
        out.stride(0),
        out.stride(1),
        out.stride(2),
        int(with_scores),
        **tile.constants(),
        TOKENS=0 if any_shape else tokens,
        KEYS=0 if any_shape else m,
        CHANNELS=0 if any_shape else dim,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return out, new_scores


def _blocks(size: int, block: int) -> int:
    return (size + block - 1) // block


def _like_joined_heads(values: Tensor, tokens: int) -> Tensor:
    """Memory for [B, H, N, d], laid out as [B, N, H, d]."""
    images, heads, _, dim = values.shape
    # [B, N, H, d] -> [B, H, N, d]
    return values.new_empty((images, tokens, heads, dim)).transpose(1, 2)


def _transform(scores: Tensor, queries: Tensor, keys: Tensor, constant: Tensor) -> Tensor:
    """A = P S T^T + C in float32, or float64 where S is: [B, H, N, M]."""
    wide = torch.promote_types(scores.dtype, torch.float32)
    # [N, N] @ [B, H, N, M] @ [M, M] -> [B, H, N, M]
    mixed = queries.to(wide) @ scores.to(wide) @ keys.to(wide).transpose(0, 1)
    return mixed + constant.to(wide)


def _mix(new_scores: Tensor, values: Tensor) -> Tensor:
    """softmax(A) V: [B, H, N, M], [B, H, M, d] -> [B, H, N, d]."""
    shares = new_scores.softmax(dim=-1).to(values.dtype)
    # [B, H, N, M] @ [B, H, M, d] -> [B, H, N, d]
    mixed = shares @ values
    # -> [B, N, H, d] in memory
    return mixed.transpose(1, 2).contiguous().transpose(1, 2)


def _check(scores: Tensor, queries: Tensor, keys: Tensor, constant: Tensor, values: Tensor) -> None:
    if scores.ndim != 4:
        raise UsageError(f"less_attention: scores are {_shape(scores)}, expected [B, H, N, M]")
    images, heads, tokens, m = scores.shape
    expected = (
        ("queries", queries, (tokens, tokens)),
        ("keys", keys, (m, m)),
        ("constant", constant, (tokens, m)),
        ("values", values, (images, heads, m, values.shape[-1])),
    )
    for name, given, wanted in expected:
        if given.ndim != len(wanted) or any(
            have != want for have, want in zip(given.shape, wanted, strict=True)
        ):
            raise UsageError(
                f"less_attention: {name} are {_shape(given)}, expected {list(wanted)} "
                f"beside scores {_shape(scores)}"
            )
    if queries.dtype not in {scores.dtype, torch.float32}:
        raise UsageError(
            f"less_attention: queries are {queries.dtype}, scores {scores.dtype}; "
            "queries must be of the same type or float32"
        )


def _types(scores: Tensor, values: Tensor) -> Types:
    if scores.dtype == torch.float32 and values.dtype == torch.float32:
        return "full"
    if values.dtype in {torch.float16, torch.bfloat16}:
        if scores.dtype == torch.float32:
            return "mixed"
        if scores.dtype == values.dtype:
            return "half"
    raise UsageError(
        f"less_attention: scores are {scores.dtype}, values {values.dtype}; the kernel takes "
        "values in float16, bfloat16 or float32, and scores of the same type or in float32"
    )


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)
