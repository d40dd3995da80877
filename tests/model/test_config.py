import dataclasses
import json

import numpy as np
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
        ({"norm_eps": float("nan")}, "norm_eps is nan; it must be a number"),
        ({"norm_eps": "small"}, "norm_eps is 'small'; it must be a number"),
        ({"norm_eps": None}, "norm_eps is None; it must be a number"),
        ({"norm_eps": True}, "norm_eps is True"),
        ({"residual_scale_init": float("inf")}, "residual_scale_init is inf"),
        ({"depths": None}, "depths is None; it must be 4 whole numbers of at least 1"),
        ({"depths": 4}, "depths is 4; it must be 4 whole numbers"),
        ({"depths": "2222"}, "depths is '2222'; it must be 4 whole numbers"),
        ({"depths": (3, 4, True, 3)}, "4 whole numbers"),
        ({"image_size": None}, "image_size is .*; it must be 2 whole numbers"),
        ({"image_size": (224, 224, 3)}, "2 whole numbers"),
        ({"num_classes": "10.5"}, "num_classes is '10.5'"),
        ({"num_classes": True}, "num_classes is True"),
        ({"class_token": "maybe"}, "class_token is 'maybe'; it must be true or false"),
        ({"class_token": 2}, "class_token is 2"),
        ({"in_channels": 5}, "in_channels is 5; pictures have 1 .grey., 2"),
    ],
)
def test_an_impossible_config_says_what_is_wrong(change, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(lavit_s(), **change)


def test_values_are_read_however_files_hold_them():
    plain = dataclasses.replace(lavit_s(), norm_eps=1e-5, class_token=True, num_classes=7)
    values = plain.to_dict() | {
        "image_size": 224,
        "norm_eps": "1e-5",
        "class_token": np.bool_(True),
        "num_classes": np.int64(7),
        "heads": [np.int32(1), "2", 5, 8],
        "residual_scale_init": np.float64(0.1),
        "attention_residual": "true",
    }
    found = LaViTConfig.from_dict(values)
    assert found == plain
    assert json.dumps(found.to_dict()) == json.dumps(plain.to_dict())


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
