"""What a PyTorch model costs, by tracing it with fvcore: by module, operator, stage and part."""

from __future__ import annotations

import copy
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

from lavit_deploy.profiles.counting.module_rules import ModuleRules
from lavit_deploy.profiles.counting.operator_rules import (
    DIVIDED,
    HANDLES,
    REASONS,
    VIEWS,
    Value,
    bytes_moved,
    elements,
)
from lavit_deploy.profiles.counting.parts import Place
from lavit_deploy.profiles.counting.stage_counts import StageCounts
from lavit_deploy.profiles.report.costs import UncountedOperator

Measure = Literal["calls", "multiply_adds", "activations", "elements", "bytes_moved"]

_Key = tuple[str, Measure, str | None]
"""Operator, measure, and the part it belongs to whatever its module (None: the module's part)."""


@dataclass(frozen=True)
class Traced:
    """The costs of one image. Units and conventions: `lavit_deploy.profiles.report.costs.Cell`.

    Attributes:
        by_place: stage and part -> measure -> amount.
        by_module: dotted name -> measure -> amount, everything inside the module included.
        by_operator_and_measure: operator -> measure -> amount.
        uncounted: operators that ran and were not counted, those without a known reason first.
    """

    by_place: Mapping[Place, Counter[Measure]]
    by_module: Mapping[str, Counter[Measure]]
    by_operator_and_measure: Mapping[str, Counter[Measure]]
    uncounted: tuple[UncountedOperator, ...]

    @property
    def by_stage(self) -> StageCounts:
        """Multiply-adds: stage -> part -> count."""
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for place, amounts in self.by_place.items():
            if amounts["multiply_adds"]:
                counts[place.stage][place.part] = amounts["multiply_adds"]
        return dict(counts)

    @property
    def by_operator(self) -> Counter[str]:
        """Multiply-adds: operator without its namespace -> count."""
        return Counter(
            {
                operator.rpartition("::")[2]: amounts["multiply_adds"]
                for operator, amounts in self.by_operator_and_measure.items()
                if amounts["multiply_adds"]
            }
        )

    @property
    def total(self) -> int:
        """Multiply-adds of everything."""
        return self.by_operator.total()


def trace(model: nn.Module, image: Tensor, rules: ModuleRules) -> Traced:
    """Count one forward pass of a copy of `model`.

    A copy, because tracing leaves traces: transformers' Swin replaces numbers among its attributes
    by tensors, after which it runs slower.

    Args:
        model: float32, in evaluation mode, on the CPU.
        image: one image as it takes it [1, C, H, W].
        rules: where its modules belong.
    """
    model = copy.deepcopy(model).eval()
    names = {*HANDLES, *REASONS}
    with torch.no_grad(), _quiet_tracer():
        analysis = _analysis(model, image, names)
        inclusive: Mapping[str, Counter[_Key]] = analysis.by_module_and_operator()
        unknown = set(analysis.unsupported_ops())
        if unknown:  # once more, to learn their sizes
            inclusive = _analysis(model, image, names | unknown).by_module_and_operator()
    by_operator: defaultdict[str, Counter[Measure]] = defaultdict(Counter)
    for (operator, measure, _), amount in inclusive[""].items():
        by_operator[operator][measure] += int(amount)
    return Traced(
        by_place=_by_place(inclusive, rules),
        by_module={name: _by_measure(amounts) for name, amounts in inclusive.items()},
        by_operator_and_measure=dict(by_operator),
        uncounted=_uncounted(by_operator),
    )


def parameters_by_place(model: nn.Module, rules: ModuleRules) -> Counter[Place]:
    """Trainable parameters by stage and part; their sum is the model's."""
    count: Counter[Place] = Counter()
    for name, parameter in model.named_parameters():
        count[rules.locate(name)] += parameter.numel()
    return count


def summed_by_part(amounts: Counter[Place]) -> Counter[str]:
    """What stages have in the same part, added up."""
    count: Counter[str] = Counter()
    for place, amount in amounts.items():
        count[place.part] += amount
    return count


def _costs(operator: str) -> Callable[[Sequence[Value], Sequence[Value]], Counter[_Key]]:
    """A handle that gives every measure of one call of `operator`."""
    count, divide = HANDLES.get(operator), DIVIDED.get(operator)

    def costs(inputs: Sequence[Value], outputs: Sequence[Value]) -> Counter[_Key]:
        written = elements(inputs, outputs)
        found: Counter[_Key] = Counter(
            {
                (operator, "calls", None): 1,
                (operator, "elements", None): written,
                (operator, "bytes_moved", None): bytes_moved(inputs, outputs),
            }
        )
        if count is not None:
            found[operator, "activations", None] = written
            parts = {None: count(inputs, outputs)} if divide is None else divide(inputs, outputs)
            for part, multiply_adds in parts.items():
                found[operator, "multiply_adds", part] = multiply_adds
        return found

    return costs


def _analysis(model: nn.Module, image: Tensor, operators: AbstractSet[str]) -> FlopCountAnalysis:
    """An analysis of `operators` by fvcore, silent: what it would warn of is in the result."""
    handles = {operator: _costs(operator) for operator in operators} | dict.fromkeys(VIEWS)
    analysis = FlopCountAnalysis(model, image).clear_op_handles().set_op_handle(**handles)
    return (
        analysis.unsupported_ops_warnings(enabled=False)
        .uncalled_modules_warnings(enabled=False)
        .tracer_warnings("none")
    )


def _uncounted(by_operator: Mapping[str, Counter[Measure]]) -> tuple[UncountedOperator, ...]:
    found = [
        UncountedOperator(
            operator=operator,
            calls=amounts["calls"],
            elements=amounts["elements"],
            reason=REASONS.get(operator),
        )
        for operator, amounts in by_operator.items()
        if operator not in HANDLES
    ]
    return tuple(sorted(found, key=lambda one: (one.reason is not None, -one.elements)))


def _by_measure(amounts: Mapping[_Key, float]) -> Counter[Measure]:
    found: Counter[Measure] = Counter()
    for (_, measure, _), amount in amounts.items():
        found[measure] += int(amount)
    return found


def _by_place(
    inclusive: Mapping[str, Counter[_Key]], rules: ModuleRules
) -> dict[Place, Counter[Measure]]:
    found: defaultdict[Place, Counter[Measure]] = defaultdict(Counter)
    for name, amounts in _exclusive(inclusive).items():
        place = rules.locate(name)
        for (_, measure, part), amount in amounts.items():
            where = place if part is None else Place(place.stage, part)
            found[where][measure] += int(amount)
    return {place: +amounts for place, amounts in found.items() if +amounts}


def _exclusive(inclusive: Mapping[str, Counter[_Key]]) -> dict[str, Counter[_Key]]:
    """Costs of each module without those of the modules within it."""
    own = {name: Counter(amounts) for name, amounts in inclusive.items()}
    for name, amounts in inclusive.items():
        parent = name.rpartition(".")[0]
        while name and parent not in own:  # a container that is no module of its own
            parent = parent.rpartition(".")[0]
        if name:
            own[parent].subtract(amounts)
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
