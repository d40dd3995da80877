import pytest
import torch

from lavit_deploy.errors import UsageError
from profiles.baselines import BASELINES
from profiles.closed_form import total
from profiles.parts import OTHER, locate
from profiles.tracing import parameters_by_part, trace
from profiles.transformers_models import build


@pytest.fixture(scope="module", params=BASELINES)
def baseline(request):
    return BASELINES[request.param]


@pytest.fixture(scope="module")
def fused(baseline):
    return build(baseline, "sdpa")


@pytest.fixture(scope="module")
def eager(baseline):
    return build(baseline, "eager")


@pytest.fixture(scope="module")
def traced(baseline, fused):
    return trace(fused, torch.zeros(1, 3, 224, 224), baseline.family)


def test_parameters_are_the_published_ones_to_the_digits_printed(baseline, fused):
    found = sum(parameter.numel() for parameter in fused.parameters()) / 1e6
    assert abs(found - baseline.published.parameters_m) <= 0.05


def test_multiply_adds_are_within_two_percent_of_the_published_ones(baseline, traced):
    assert traced.total / 1e9 == pytest.approx(baseline.published.gflops, rel=0.02)


def test_traced_count_is_the_closed_form_in_every_stage_and_part(baseline, traced):
    expected = {stage: +parts for stage, parts in baseline.closed_form().items()}
    assert {stage: +parts for stage, parts in traced.by_stage.items()} == expected


def test_eager_and_fused_counts_are_equal(baseline, eager, traced):
    from_eager = trace(eager, torch.zeros(1, 3, 224, 224), baseline.family)
    assert from_eager.by_stage == traced.by_stage
    assert "scaled_dot_product_attention" in traced.by_operator
    assert "scaled_dot_product_attention" not in from_eager.by_operator


def test_no_operator_is_uncounted_without_a_reason(traced):
    assert traced.uncounted
    assert all(one.reason for one in traced.uncounted)


def test_eager_and_fused_attention_give_the_same_logits(eager, fused):
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, found = eager(images).logits, fused(images).logits
    assert expected.std() > 1e-3  # else everything would be close
    # float32, sums in another order through up to 28 layers; logits are of order 1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_every_parameter_has_its_part(baseline, fused):
    names = [name for name, _ in fused.named_parameters()]
    assert not [name for name in names if locate(baseline.family, name).part == OTHER]


def test_parameters_by_part_add_up(baseline, fused):
    total_parameters = sum(parameter.numel() for parameter in fused.parameters())
    assert parameters_by_part(fused, baseline.family).total() == total_parameters


@pytest.mark.parametrize("size", [256, 288])
@pytest.mark.parametrize("name", ["pvt_tiny", "pvt_v2_b1", "swin_tiny"])
def test_closed_forms_hold_at_other_sizes_too(name, size):
    resized = BASELINES[name].at(size)
    traced = trace(build(resized, "sdpa"), torch.zeros(1, 3, size, size), resized.family)
    assert {stage: +parts for stage, parts in traced.by_stage.items()} == {
        stage: +parts for stage, parts in resized.closed_form().items()
    }
    assert traced.total > total(BASELINES[name].closed_form())


@pytest.mark.parametrize(
    ("name", "size"), [("swin_tiny", 192), ("swin_tiny", 230), ("pvt_tiny", 100)]
)
def test_a_size_that_the_architecture_cannot_take_is_refused(name, size):
    with pytest.raises(UsageError, match=name):
        BASELINES[name].at(size)


def test_weights_are_random_but_the_same_whatever_the_attention(eager, fused):
    for name, value in fused.state_dict().items():
        torch.testing.assert_close(eager.state_dict()[name], value, rtol=0, atol=0)


def test_building_leaves_the_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build(BASELINES["pvt_tiny"], "sdpa")
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
