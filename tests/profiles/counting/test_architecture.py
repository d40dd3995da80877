"""LaViT and the baselines are the same to the profiler: what it asks of one, it asks of all."""

import pytest
import torch

from lavit_deploy.profiles.baselines import BASELINES
from lavit_deploy.profiles.counting.family_architecture import FamilyArchitecture
from lavit_deploy.profiles.counting.parts import NOWHERE
from lavit_deploy.profiles.counting.stage_counts import total


@pytest.mark.parametrize("name", ["lavit", "deit_tiny"])
def test_an_architecture_is_resized_counted_and_built(name, tiny_model):
    lavit = FamilyArchitecture(tiny_model.config)
    architecture = lavit if name == "lavit" else BASELINES[name]
    larger = architecture.at(2 * architecture.image_size[0])
    assert larger.image_size == tuple(2 * side for side in architecture.image_size)
    assert total(larger.closed_form()) > 3.9 * total(architecture.closed_form())
    with torch.device("meta"):
        model = architecture.build("eager")
    rules = architecture.module_rules
    assert not [key for key, _ in model.named_parameters() if rules.locate(key) == NOWHERE]
