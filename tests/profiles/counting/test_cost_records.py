from collections import Counter

import torch
from torch import nn

from lavit_deploy.profiles.counting.cost_records import (
    cells,
    closed_form_counts,
    in_order,
    module_costs,
    operator_costs,
    traced_counts,
)
from lavit_deploy.profiles.counting.module_rules import module_rules
from lavit_deploy.profiles.counting.trace import parameters_by_place, trace

RULES = module_rules((r"1", "head"), (r"0", "mlp"))
MODEL = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2, bias=False), nn.Softmax(-1))


def traced():
    return trace(MODEL, torch.zeros(1, 4), RULES)


def test_parts_come_in_the_order_of_the_network_and_unknown_ones_last():
    counts = Counter(head=1, zebra=2, mlp=3, other=4, patch_embed=5, convolutions=0)
    assert list(in_order(counts)) == ["patch_embed", "mlp", "head", "other", "zebra"]


def test_a_closed_form_is_its_own_total_in_the_order_of_stages():
    found = closed_form_counts({"head": Counter(head=2), "stage 1": Counter(mlp=3)})
    assert (found.total, found.closed_form, found.method) == (5, 5, "closed form")
    assert list(found.by_stage) == ["stage 1", "head"]


def test_traced_counts_hold_the_closed_form_beside_them():
    found = traced_counts(traced(), {"stage 1": Counter(mlp=24), "head": Counter(head=12)})
    assert (found.total, found.closed_form, found.method) == (36, 36, "traced")
    assert found.by_stage == {"stage 1": {"mlp": 24}, "head": {"head": 12}}
    assert found.by_operator == {"linear": 36}
    assert [one.operator for one in found.uncounted] == ["aten::softmax"]
    assert traced_counts(traced(), None).closed_form is None


def test_cells_have_parameters_and_costs_of_a_stage_and_part():
    mlp, head, other = cells(traced(), parameters_by_place(MODEL, RULES))
    assert (mlp.stage, mlp.part, mlp.parameters, mlp.multiply_adds) == ("stage 1", "mlp", 30, 24)
    assert (head.part, head.parameters, head.multiply_adds, head.activations) == ("head", 12, 12, 2)
    assert (other.part, other.parameters, other.multiply_adds) == ("other", 0, 0)


def test_operators_are_sorted_by_their_work_and_modules_by_the_model():
    assert [(one.operator, one.calls) for one in operator_costs(traced())] == [
        ("aten::linear", 2), ("aten::softmax", 1),
    ]  # fmt: skip
    modules = module_costs(traced(), MODEL)
    assert [(one.module, one.parameters, one.multiply_adds) for one in modules] == [
        ("", 42, 36), ("0", 30, 24), ("1", 12, 12), ("2", 0, 0),
    ]  # fmt: skip
