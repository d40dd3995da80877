"""Tensors that cannot be a network's weights, and those that inference does not read."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_TOTALS = frozenset({"total_ops", "total_params"})
"""Buffers that the profiler thop leaves in every module, float64 [1]."""

_LISTED = 3


def obstacle(tensor: Tensor) -> str:
    """Why a tensor cannot be a weight, as a phrase; empty if it can."""
    if tensor.is_quantized:
        return f"quantized ({_name(tensor.dtype)})"
    if tensor.layout != torch.strided or tensor.is_nested:
        return f"sparse ({_name(tensor.layout)})" if not tensor.is_nested else "nested"
    if tensor.is_meta:
        return "without data (meta)"
    if tensor.is_complex():
        return f"complex ({_name(tensor.dtype)})"
    if not tensor.is_floating_point() or tensor.dtype.itemsize == 1:
        return _name(tensor.dtype)
    return ""


def is_counter(name: str, tensor: Tensor) -> bool:
    """Whether a tensor only counts: one whole number, or a profiler's total."""
    if tensor.numel() != 1:
        return False
    whole = not tensor.is_floating_point() and not tensor.is_complex() and not tensor.is_quantized
    return whole or name.rpartition(".")[2] in _TOTALS


def without_counters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that are no counters."""
    return {name: tensor for name, tensor in tensors.items() if not is_counter(name, tensor)}


def unusable(tensors: Mapping[str, Tensor]) -> str:
    """Which tensors cannot be weights and why, in one line; empty if all can."""
    obstacles = {name: why for name, tensor in tensors.items() if (why := obstacle(tensor))}
    if not obstacles:
        return ""
    shown = ", ".join(f"{name} is {why}" for name, why in list(obstacles.items())[:_LISTED])
    more = len(obstacles) - _LISTED
    return (
        shown
        + (f" and {more} more are such" if more > 0 else "")
        + "; weights must be dense, in float16, bfloat16, float32 or float64: give the checkpoint "
        "that these were made from"
    )


def broken(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity."""
    return [name for name, tensor in tensors.items() if not tensor.isfinite().all()]


def _name(value: torch.dtype | torch.layout) -> str:
    return str(value).removeprefix("torch.")
