"""Operators, multiply-adds and weights of a model, counted by running it on no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from lavit_deploy.folding.modules.model import FoldedLaViT


@dataclass(frozen=True)
class Cost:
    """Counted, not measured.

    Attributes:
        operators: calls of PyTorch operators in one forward pass, about one graph node each
            (a linear layer with a bias becomes two).
        multiply_adds: of convolutions and matrix products, one picture.
        weights: numbers stored, constants of the computation included.
    """

    operators: int
    multiply_adds: int
    weights: int


class _OperatorCount(TorchFunctionMode):
    """Counts calls that make tensors; attribute reads such as `x.shape` make none."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(  # type: ignore[no-untyped-def] # PyTorch publishes no types for it
        self,
        func,  # noqa: ANN001
        types: Any,  # noqa: ANN401
        args: Any = (),  # noqa: ANN401
        kwargs: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        del types
        result = func(*args, **(kwargs or {}))
        made = result if isinstance(result, list | tuple) else (result,)
        self.count += any(
            isinstance(item, torch.Tensor) and all(item is not arg for arg in args) for item in made
        )
        return result


def cost_of(model: FoldedLaViT) -> Cost:
    """Count what a model does for one picture."""
    config = model.config
    state = {
        name: value.detach().to("meta")
        for name, value in (*model.named_parameters(), *model.named_buffers())
    }
    size = (1, *config.image_size, config.in_channels)
    images = torch.empty(size, dtype=torch.uint8, device="meta")
    flops, operators = FlopCounterMode(display=False), _OperatorCount()
    with torch.inference_mode(), flops, operators:
        torch.func.functional_call(model, state, (images,))
    weights = sum(value.numel() for value in state.values() if value.is_floating_point())
    # PyTorch counts a multiply and an add as two.
    return Cost(operators.count, flops.get_total_flops() // 2, weights)
