"""Parameters and multiply-adds of a PyTorch model by tracing it with fvcore."""

from __future__ import annotations

import copy
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

from profiles.baselines import Family
from profiles.closed_form import StageCounts
from profiles.operators import HANDLES, REASONS, elements
from profiles.parts import locate


@dataclass(frozen=True)
class Uncounted:
    """An operator that has no multiply-adds, or whose multiply-adds are unknown.

    Attributes:
        operator: its name in the graph, such as "aten::softmax".
        calls: how often it runs for one image.
        elements: elements that it writes for one image.
        reason: why it may stay uncounted; None where that is not known.
    """

    operator: str
    calls: int
    elements: int
    reason: str | None


@dataclass(frozen=True)
class Traced:
    """Multiply-adds of one image.

    Attributes:
        by_stage: stage -> part -> count.
        by_operator: operator -> count.
        uncounted: operators that ran and were not counted, those without a known reason first.
    """

    by_stage: StageCounts
    by_operator: Counter[str]
    uncounted: tuple[Uncounted, ...]

    @property
    def total(self) -> int:
        """Sum over everything."""
        return self.by_operator.total()


def trace(model: nn.Module, image: Tensor, family: Family) -> Traced:
    """Count one forward pass of a copy of `model`.

    A copy, because tracing leaves traces: transformers' Swin replaces numbers among its attributes
    by tensors, after which it runs slower.

    Args:
        model: float32, in evaluation mode, on the CPU.
        image: one image as it takes it [1, C, H, W].
        family: whose names its modules have.
    """
    model = copy.deepcopy(model).eval()
    analysis = _analysis(model, image).clear_op_handles().set_op_handle(**HANDLES)
    with torch.no_grad(), _quiet_tracer():
        inclusive = analysis.by_module_and_operator()
        missed = analysis.unsupported_ops()
        written = _written(model, image, list(missed))
    by_stage: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for name, own in _exclusive(inclusive).items():
        if own:
            place = locate(family, name)
            by_stage[place.stage][place.part] += own
    uncounted = [
        Uncounted(operator, calls, written[operator], REASONS.get(operator))
        for operator, calls in missed.items()
    ]
    return Traced(
        by_stage=dict(by_stage),
        by_operator=Counter({name: int(count) for name, count in inclusive[""].items()}),
        uncounted=tuple(sorted(uncounted, key=lambda one: (one.reason is not None, -one.elements))),
    )


def parameters_by_part(model: nn.Module, family: Family) -> Counter[str]:
    """Trainable parameters by part; their sum is the model's."""
    count: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        count[locate(family, name).part] += parameter.numel()
    return count


def _analysis(model: nn.Module, image: Tensor) -> FlopCountAnalysis:
    """An analysis by fvcore, silent: what it would warn of is in the result."""
    analysis = FlopCountAnalysis(model, image)
    return (
        analysis.unsupported_ops_warnings(enabled=False)
        .uncalled_modules_warnings(enabled=False)
        .tracer_warnings("none")
    )


def _written(model: nn.Module, image: Tensor, operators: list[str]) -> Counter[str]:
    """Elements that each of `operators` writes, by its full name."""

    def named(operator: str) -> object:
        return lambda inputs, outputs: Counter({operator: elements(inputs, outputs)})

    handles = {operator: named(operator) for operator in operators}
    counted = _analysis(model, image).clear_op_handles().set_op_handle(**handles)
    return Counter(counted.by_operator())


def _exclusive(inclusive: Mapping[str, Mapping[str, float]]) -> dict[str, int]:
    """Multiply-adds of each module without those of the modules within it."""
    own = {name: int(sum(counts.values())) for name, counts in inclusive.items()}
    totals = dict(own)
    for name in inclusive:
        parent = name.rpartition(".")[0]
        while name and parent not in own:  # a container that is no module of its own
            parent = parent.rpartition(".")[0]
        if name:
            own[parent] -= totals[name]
    return own


@contextmanager
def _quiet_tracer() -> Iterator[None]:
    """Hold back what torch logs while tracing: the traced graph is read once and thrown away."""
    logger = logging.getLogger("torch.jit")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
