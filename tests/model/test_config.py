import dataclasses

import pytest
from hypothesis import given

from lavit_configs import configs
from lavit_deploy.common.errors import ConfigError
from lavit_deploy.model.config import LaViTConfig, lavit_micro, lavit_s, preset


@given(configs())
def test_a_config_survives_its_dictionary(config):
    assert LaViTConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": (225, 224)}, "divisible"),
        ({"image_size": (224,)}, "2 whole numbers"),
        ({"image_size": (224, 224.0)}, "whole numbers"),
        ({"depths": (1, 2, 3)}, "4 whole numbers"),
        ({"depths": (1, 2, 0, 1)}, "at least 1"),
        ({"heads": (3, 2, 5, 8)}, "do not split"),
        ({"la_start": (0, 0, 1, 2)}, "can begin at layer 2"),
        ({"la_start": (0, 0, 9, 2)}, "beyond"),
        ({"sr_ratios": (8, 4, 1, 1)}, "one key grid"),
        ({"sr_ratios": (3, 4, 2, 1)}, "does not divide"),
        ({"class_token": True, "sr_ratios": (56, 28, 14, 7)}, "class_token needs"),
        ({"num_classes": 0}, "num_classes"),
        ({"norm_eps": 0.0}, "norm_eps"),
    ],
)
def test_an_impossible_config_says_what_is_wrong(change, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(lavit_s(), **change)


def test_unequal_key_grids_are_allowed_without_the_residual():
    config = dataclasses.replace(lavit_s(), sr_ratios=(8, 4, 1, 1), attention_residual=False)
    assert config.keys(2) == 196


def test_an_unknown_key_in_a_dictionary_is_named():
    with pytest.raises(ConfigError, match="depht"):
        LaViTConfig.from_dict(lavit_micro().to_dict() | {"depht": [1, 1, 1, 1]})


def test_a_missing_key_in_a_dictionary_is_named():
    values = lavit_micro().to_dict()
    del values["dims"]
    with pytest.raises(ConfigError, match="dims"):
        LaViTConfig.from_dict(values)


def test_an_unknown_preset_lists_those_there_are():
    with pytest.raises(ConfigError, match="lavit_t, lavit_s, lavit_b"):
        preset("lavit_xl")
