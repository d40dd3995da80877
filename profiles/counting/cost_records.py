"""Counts as records of the report, in the order of the network."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from lavit_deploy.profiles.counting.parts import PARTS, Place
from lavit_deploy.profiles.counting.stage_counts import StageCounts, by_part, total
from lavit_deploy.profiles.report.costs import Cell, Counts, ModuleCost, OperatorCost

if TYPE_CHECKING:
    from torch import nn

    from lavit_deploy.profiles.counting.trace import Traced


def traced_counts(traced: Traced, closed_form: StageCounts | None) -> Counts:
    """Multiply-adds as they were traced, with the total by closed form to hold them against."""
    return Counts(
        total=traced.total,
        method="traced",
        closed_form=None if closed_form is None else total(closed_form),
        by_part=in_order(by_part(traced.by_stage)),
        by_stage=_by_stage(traced.by_stage),
        by_operator=dict(traced.by_operator.most_common()),
        uncounted=traced.uncounted,
    )


def closed_form_counts(counts: StageCounts) -> Counts:
    """Multiply-adds of an architecture whose modules are not there to be traced."""
    return Counts(
        total=total(counts),
        method="closed form",
        closed_form=total(counts),
        by_part=in_order(by_part(counts)),
        by_stage=_by_stage(counts),
    )


def cells(traced: Traced, parameters: Counter[Place]) -> tuple[Cell, ...]:
    """Every stage and part that has parameters or costs, in the order of the network."""
    found = sorted({*traced.by_place, *parameters}, key=_cell_order)
    return tuple(
        Cell(
            stage=place.stage,
            part=place.part,
            parameters=parameters[place],
            multiply_adds=amounts["multiply_adds"],
            activations=amounts["activations"],
            bytes_moved=amounts["bytes_moved"],
        )
        for place, amounts in ((place, traced.by_place.get(place, Counter())) for place in found)
    )


def operator_costs(traced: Traced) -> tuple[OperatorCost, ...]:
    """Every operator, the one with most multiply-adds first, then by the bytes it moves."""
    found = [
        OperatorCost(
            operator=operator,
            calls=amounts["calls"],
            multiply_adds=amounts["multiply_adds"],
            activations=amounts["activations"],
            elements=amounts["elements"],
            bytes_moved=amounts["bytes_moved"],
        )
        for operator, amounts in traced.by_operator_and_measure.items()
    ]
    return tuple(sorted(found, key=lambda one: (-one.multiply_adds, -one.bytes_moved)))


def module_costs(traced: Traced, model: nn.Module) -> tuple[ModuleCost, ...]:
    """Every module that ran, in the order of the model."""
    return tuple(
        ModuleCost(
            module=name,
            parameters=sum(parameter.numel() for parameter in module.parameters()),
            multiply_adds=traced.by_module[name]["multiply_adds"],
            activations=traced.by_module[name]["activations"],
            bytes_moved=traced.by_module[name]["bytes_moved"],
        )
        for name, module in model.named_modules()
        if traced.by_module.get(name)
    )


def in_order(counts: Counter[str]) -> dict[str, int]:
    """Parts in the order of the network, without the empty ones."""
    order = [*PARTS, *sorted(set(counts) - set(PARTS))]
    return {part: counts[part] for part in order if counts[part]}


def _cell_order(place: Place) -> tuple[bool, bool, str, int]:
    known = place.part in PARTS
    order = PARTS.index(place.part) if known else len(PARTS)
    return not known, not place.stage.startswith("stage"), place.stage, order


def _by_stage(counts: StageCounts) -> dict[str, dict[str, int]]:
    return {stage: in_order(counts[stage]) for stage in sorted(counts, key=_stage_order)}


def _stage_order(stage: str) -> tuple[bool, str]:
    return not stage.startswith("stage"), stage
