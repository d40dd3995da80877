"""Closed forms against the model itself: its parameters, and products counted as it runs."""

import dataclasses
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from torch.utils.flop_counter import FlopCounterMode

from lavit_configs import configs
from lavit_deploy.model.config import PRESETS, lavit_b, lavit_s, lavit_t
from lavit_deploy.model.counts import PARTS, multiply_adds, parameter_count, stage_multiply_adds
from lavit_deploy.model.lavit import LaViT


@given(configs())
def test_the_closed_form_counts_the_parameters_of_any_model(config):
    model, count = LaViT(config), parameter_count(config)
    assert sum(count.values()) == size_of(model)
    # An MLP counts with the norm before it, the head with the one before that.
    blocks = [block for block in model.modules() if hasattr(block, "mlp")]
    assert count["mlp"] == sum(size_of(block.mlp) + size_of(block.norm2) for block in blocks)
    assert count["head"] == size_of(model.head) + size_of(model.norm)


def size_of(module):
    return sum(value.numel() for value in module.parameters())


@pytest.mark.parametrize("make", PRESETS.values())
@pytest.mark.parametrize("class_token", [False, True])
def test_the_closed_form_counts_the_parameters_of_every_preset(make, class_token):
    config = dataclasses.replace(make(), class_token=class_token)
    assert sum(parameter_count(config).values()) == size_of(LaViT(config))


def test_lavit_s_has_the_papers_22_4_million_parameters():
    assert round(sum(parameter_count(lavit_s()).values()) / 1e6, 1) == 22.4


@pytest.mark.parametrize(("make", "giga"), [(lavit_t, 1.88), (lavit_s, 3.69), (lavit_b, 6.38)])
def test_multiply_adds_without_the_residual_are_those_documented(make, giga):
    config = dataclasses.replace(make(), attention_residual=False)
    assert abs(sum(multiply_adds(config).values()) / 1e9 - giga) < 0.01


def test_less_attention_saves_the_projections_of_queries_and_keys():
    with_la, without = lavit_s(), dataclasses.replace(lavit_s(), la_start=(0, 0, 0, 0))
    saved = sum(multiply_adds(without).values()) - sum(multiply_adds(with_la).values())
    projections = 4 * (196 + 49) * 320**2 + 2 * (49 + 49) * 512**2
    products = 4 * 196 * 49 * 320 + 2 * 49 * 49 * 512
    maps = 4 * 5 * 196 * 49 * (49 + 196) + 2 * 8 * 49 * 49 * (49 + 49)
    assert saved == projections + products - maps


def test_counts_name_only_known_parts():
    assert set(parameter_count(lavit_s())) <= set(PARTS)
    assert set(multiply_adds(lavit_s())) == set(PARTS)


@settings(max_examples=6)
@given(configs())
def test_the_closed_form_counts_what_pytorch_counts_as_the_model_runs(config):
    """PyTorch counts two operations for a multiply-add, of products and convolutions alone."""
    model = LaViT(config).eval()
    image = torch.zeros(1, config.in_channels, *config.image_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    assert 2 * sum(multiply_adds(config).values()) == counter.get_total_flops()


def test_an_images_multiply_adds_are_those_of_the_stages_and_the_head():
    config = lavit_s()
    stages = sum((stage_multiply_adds(config, stage) for stage in range(4)), Counter())
    assert multiply_adds(config) == stages + Counter(head=512 * 1000)
