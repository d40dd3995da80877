"""Functions as PyTorch operators that may launch Triton kernels."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from typing import ParamSpec, TypeVar

import torch

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def triton_operator(
    name: str,
) -> Callable[[Callable[_Arguments, _Result]], Callable[_Arguments, _Result]]:
    """Decorator that makes a function the operator of a name, such as "lavit::fused_mlp".

    Where Triton is not installed there is no CUDA either: the function then computes by PyTorch's
    operators, and PyTorch's warning that it finds no kernels is kept from the user.
    """

    def register(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        logger = logging.getLogger("torch._library.triton")
        level = logger.level
        if find_spec("triton") is None:
            logger.setLevel(logging.ERROR)
        try:
            return torch.library.triton_op(name, function, mutates_args=())
        finally:
            logger.setLevel(level)

    return register
