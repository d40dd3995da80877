import pytest

from lavit_deploy.common.errors import UsageError
from lavit_deploy.profiles.counting.family_architecture import FamilyArchitecture


def test_a_size_that_its_stages_do_not_divide_is_refused(tiny_model):
    architecture = FamilyArchitecture(tiny_model.config)
    assert architecture.at(None) is architecture
    assert architecture.at(64).image_size == (64, 64)
    with pytest.raises(UsageError, match="at 100 pixels"):
        architecture.at(100)


def test_it_is_built_in_evaluation_mode(tiny_model):
    built = FamilyArchitecture(tiny_model.config).build("eager")
    assert not built.training
    assert built.config == tiny_model.config
