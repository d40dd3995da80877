import dataclasses

import pytest
import torch

from lavit_deploy.common.errors import ConfigError
from lavit_deploy.families.family import ModelFamily
from lavit_deploy.families.lavit import LAVIT
from lavit_deploy.folding.fold import fold
from lavit_deploy.model.config import PRESETS, lavit_micro, lavit_t
from lavit_deploy.model.counts import multiply_adds
from lavit_deploy.model.lavit import LaViT


def test_every_compared_layer_is_a_module_and_every_module_with_weights_lies_in_one(tiny_model):
    names = LAVIT.layer_names(tiny_model.config)
    assert len(names) == len(set(names)) == 4 + 7 + 2
    for name in names:
        tiny_model.get_submodule(name)
    outside = [
        name
        for name, _ in tiny_model.named_parameters()
        if not any(name.startswith(f"{layer}.") for layer in names)
    ]
    assert all(".residual." in name for name in outside)  # maps of scores, in no layer's output


@pytest.mark.parametrize("name", PRESETS)
def test_its_counts_by_stage_are_those_of_the_model(name):
    config = PRESETS[name]()
    counts = LAVIT.multiply_adds(config)
    assert list(counts) == ["stage 1", "stage 2", "stage 3", "stage 4", "head"]
    assert sum(part.total() for part in counts.values()) == multiply_adds(config).total()


def test_its_counted_parameters_are_those_that_are_there(tiny_model):
    there = sum(parameter.numel() for parameter in tiny_model.parameters())
    assert LAVIT.parameter_count(tiny_model.config).total() == there


def test_maps_of_scores_and_what_is_outside_the_stages_stay_float32(tiny_model, tiny_preprocess):
    kept = LAVIT.float32_modules(tiny_model)
    assert {"norm", "head"} <= kept
    assert "stages.2.blocks.1.attn.theta" in kept
    assert "stages.2.residual" in kept
    assert "stages" not in kept
    assert not any(name.endswith(("mlp", "attn", "patch_embed")) for name in kept)
    folded = LAVIT.float32_modules(fold(tiny_model, tiny_preprocess).model)
    assert {"last_norm", "head", "stages.2.chain", "stages.2.residual"} <= folded


@pytest.mark.parametrize(
    ("scope", "stays"),
    [
        ("stages.2.chain", True),
        ("stages.2.chain.thetas.0", True),
        ("stages.2.blocks.1.attn.theta", True),
        ("stages.2.blocks.1.attn.psi", True),
        ("stages.1.residual", True),
        ("stages.1.residual.conv", True),
        ("stages.1.blocks.0.mlp.fc1", False),
        ("stages.1.blocks.0.attn.proj", False),
        ("head", False),
    ],
)
def test_products_of_scores_stay_float_beside_int8(scope, stays):
    assert LAVIT.stays_float(scope) is stays


def test_only_the_folded_model_takes_pixels(tiny_model, tiny_preprocess):
    folding = LAVIT.fold(tiny_model, tiny_preprocess)
    assert LAVIT.takes_pixels(folding.model)
    assert not LAVIT.takes_pixels(tiny_model)
    with pytest.raises(TypeError, match="expected a LaViT, given a Linear"):
        LAVIT.fold(torch.nn.Linear(1, 1), tiny_preprocess)


def test_a_preset_is_fitted_to_the_tensors_of_a_checkpoint():
    config = dataclasses.replace(
        lavit_micro(num_classes=7, image_size=128), class_token=True, attention_residual=False
    )
    with torch.device("meta"):
        model = LaViT(config)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert LAVIT.fitted_preset("lavit_micro", shapes) == config


def test_maps_of_no_possible_picture_leave_a_preset_its_size():
    # 7 x 7 tokens at a stride of 16 are 112 pixels, which stage 4 does not divide.
    shapes = {"stages.2.blocks.2.attn.psi.weight": (49, 49), "head.weight": (7, 64)}
    fitted = LAVIT.fitted_preset("lavit_micro", shapes)
    assert (fitted.image_size, fitted.num_classes) == (lavit_micro().image_size, 7)
    assert LAVIT.equal_sizes(fitted, shapes) == ()


def test_a_configuration_is_resized_and_named(tiny_model):
    config = LAVIT.resized(lavit_t(num_classes=5), (448, 224))
    assert config == dataclasses.replace(lavit_t(num_classes=5), image_size=(448, 224))
    assert LAVIT.preset_name(config) == "lavit_t"
    assert LAVIT.preset_name(dataclasses.replace(config, class_token=True)) == "lavit_t"
    assert LAVIT.preset_name(dataclasses.replace(config, in_channels=1)) == "lavit_t"
    # No preset exists at 60 x 60 pixels, which is asked of none.
    odd = dataclasses.replace(
        lavit_micro(),
        image_size=(60, 60),
        patch_sizes=(3, 2, 2, 5),
        sr_ratios=(1, 1, 1, 1),
        attention_residual=False,
    )
    assert LAVIT.preset_name(odd) == "custom"
    assert LAVIT.preset_name(tiny_model.config) == "custom"
    with pytest.raises(ConfigError, match="divisible"):
        LAVIT.resized(config, (225, 225))


def test_it_is_a_family_of_which_nothing_is_missing():
    assert isinstance(LAVIT, ModelFamily)
    assert LAVIT.read_config(lavit_t().to_dict()) == lavit_t()
    assert LAVIT.preset("lavit_t", num_classes=3) == lavit_t(num_classes=3)
    with pytest.raises(ConfigError, match="no preset 'x'; there are lavit_nano, lavit_micro"):
        LAVIT.preset("x")
