import pytest
import torch
from torch import nn

from lavit_deploy.model.config import preset
from lavit_deploy.model.counts import multiply_adds, parameter_count
from lavit_deploy.model.lavit import LaViT
from lavit_deploy.profiles.counting.lavit import LAVIT_MODULES, lavit_counts
from lavit_deploy.profiles.counting.parts import NOWHERE
from lavit_deploy.profiles.counting.stage_counts import total
from lavit_deploy.profiles.counting.trace import parameters_by_place, summed_by_part, trace

PRESET_SIZES = [
    ("lavit_micro", 64),
    ("lavit_micro", 96),
    ("lavit_t", 224),
    ("lavit_t", 256),
    ("lavit_s", 96),
    ("lavit_s", 224),
    ("lavit_b", 224),
]


def without_zeros(counts):
    return {stage: +by_part for stage, by_part in counts.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), PRESET_SIZES)
def test_lavit_traced_is_lavit_by_closed_form_in_every_stage_and_part(name, size):
    config = preset(name, image_size=size)
    model = LaViT(config).eval()
    traced = trace(model, torch.zeros(1, 3, size, size), LAVIT_MODULES)
    assert without_zeros(traced.by_stage) == without_zeros(lavit_counts(config))
    assert traced.total == total(lavit_counts(config)) == multiply_adds(config).total()


@pytest.mark.parametrize("changes", [{"class_token": True}, {"attention_residual": False}])
def test_variants_of_lavit_agree_too(tiny_model, changes):
    import dataclasses

    config = dataclasses.replace(tiny_model.config, **changes)
    traced = trace(LaViT(config).eval(), torch.zeros(1, 3, 32, 32), LAVIT_MODULES)
    assert without_zeros(traced.by_stage) == without_zeros(lavit_counts(config))


@pytest.mark.parametrize("name", ["lavit_micro", "lavit_s"])
def test_parameters_by_part_are_those_of_the_closed_form(name):
    config = preset(name)
    found = summed_by_part(parameters_by_place(LaViT(config), LAVIT_MODULES))
    assert found == +parameter_count(config)


def test_every_operator_of_lavit_that_is_not_counted_has_a_reason(tiny_model):
    traced = trace(tiny_model, torch.zeros(1, 3, 32, 32), LAVIT_MODULES)
    assert {one.operator for one in traced.uncounted} >= {"aten::softmax", "aten::gelu"}
    assert all(one.reason for one in traced.uncounted)


def test_elements_of_uncounted_operators_are_counted():
    model = nn.Sequential(nn.GELU(), nn.GELU())
    (gelu,) = trace(model, torch.zeros(1, 3, 5, 7), LAVIT_MODULES).uncounted
    assert (gelu.operator, gelu.calls, gelu.elements) == ("aten::gelu", 2, 2 * 3 * 5 * 7)


def test_costs_by_place_and_by_operator_add_up_to_those_of_the_model(tiny_model):
    traced = trace(tiny_model, torch.zeros(1, 3, 32, 32), LAVIT_MODULES)
    whole = traced.by_module[""]
    for measure in ("calls", "multiply_adds", "activations", "elements", "bytes_moved"):
        assert whole[measure] > 0
        for parts in (traced.by_place, traced.by_operator_and_measure):
            assert sum(amounts[measure] for amounts in parts.values()) == whole[measure]


def test_only_residual_sums_and_copies_belong_to_no_part(tiny_model):
    traced = trace(tiny_model, torch.zeros(1, 3, 32, 32), LAVIT_MODULES)
    assert traced.by_place[NOWHERE]["multiply_adds"] == 0
    assert traced.by_place[NOWHERE]["calls"] > 0


def test_a_module_contains_the_modules_within_it(tiny_model):
    traced = trace(tiny_model, torch.zeros(1, 3, 32, 32), LAVIT_MODULES)
    mlp = traced.by_module["stages.0.blocks.0.mlp"]
    inner = [traced.by_module[f"stages.0.blocks.0.mlp.{name}"] for name in ("fc1", "act", "fc2")]
    assert mlp["bytes_moved"] == sum(one["bytes_moved"] for one in inner)
    assert mlp["multiply_adds"] == inner[0]["multiply_adds"] + inner[2]["multiply_adds"]


class HiddenProduct(torch.autograd.Function):
    """A matrix product that the tracer cannot look into."""

    @staticmethod
    def forward(ctx, x):
        return x @ x.transpose(-2, -1)

    @staticmethod
    def backward(ctx, grad):
        raise NotImplementedError


class Opaque(nn.Module):
    def forward(self, x):
        return HiddenProduct.apply(x).softmax(-1)


class Distances(nn.Module):
    def forward(self, x):
        return torch.cdist(x, x)


@pytest.mark.parametrize(
    ("model", "operator"), [(Opaque(), "HiddenProduct"), (Distances(), "aten::cdist")]
)
def test_an_operator_that_may_hide_a_product_is_listed_first_and_without_a_reason(model, operator):
    first = trace(model, torch.zeros(1, 3, 4, 4), LAVIT_MODULES).uncounted[0]
    assert operator in first.operator
    assert first.reason is None


def test_tracing_leaves_the_model_as_it_was():
    from lavit_deploy.profiles.baselines import BASELINES

    model = BASELINES["swin_tiny"].build("sdpa")
    layers = [module for module in model.modules() if hasattr(module, "shift_size")]
    before = [(layer.window_size, layer.shift_size) for layer in layers]
    trace(model, torch.zeros(1, 3, 224, 224), BASELINES["swin_tiny"].module_rules)
    after = [(layer.window_size, layer.shift_size) for layer in layers]
    assert after == before
    assert {type(number) for pair in after for number in pair} == {int}
