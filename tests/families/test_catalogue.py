import pytest
from torch import nn

from lavit_deploy.common.errors import ConfigError
from lavit_deploy.families.catalogue import (
    FAMILIES,
    all_families,
    config_of,
    family_of,
    family_of_preset,
    find_family,
    preset_names,
)
from lavit_deploy.families.lavit import LAVIT
from lavit_deploy.model.config import PRESETS, lavit_micro


def test_a_family_is_found_by_its_name_its_presets_and_its_configurations(tiny_family):
    tiny = tiny_family.TINY
    assert list(all_families()) == [*FAMILIES, tiny]
    assert preset_names() == (*PRESETS, "tiny_8")
    for family, preset, config in (
        (LAVIT, "lavit_s", lavit_micro()),
        (tiny, "tiny_8", tiny_family.TinyConfig()),
    ):
        assert find_family(family.name) is family
        assert family_of_preset(preset) is family
        assert family_of(config) is family


def test_what_there_is_not_is_answered_with_what_there_is():
    with pytest.raises(ConfigError, match="no model family 'vit'; there are lavit"):
        find_family("vit")
    with pytest.raises(
        ConfigError, match="no preset 'vit_s'; there are lavit_nano, lavit_micro, lavit_t"
    ):
        family_of_preset("vit_s")
    with pytest.raises(ConfigError, match="configurations of type int"):
        family_of(3)


def test_a_models_configuration_is_the_one_that_it_keeps(tiny_model):
    assert config_of(tiny_model) is tiny_model.config
    with pytest.raises(TypeError, match="a Linear keeps no configuration"):
        config_of(nn.Linear(1, 1))
