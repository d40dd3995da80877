import math

import pytest
import torch
from torch import nn

from lavit_deploy.checkpoint import save_checkpoint
from lavit_deploy.common.errors import UsageError
from lavit_deploy.model.config import lavit_micro
from lavit_deploy.model.lavit import INIT_STD, LaViT, LessAttention
from lavit_deploy.preprocess import Preprocess
from lavit_deploy.training.initialisation import weights_of, xavier
from tiny_training import CONFIG

TRUNCATED = 0.8796
"""Standard deviation of a normal distribution that is cut at two of its own."""


@pytest.fixture(scope="module")
def drawn():
    torch.manual_seed(0)
    model = LaViT(lavit_micro())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    xavier(model)
    return model, before


def test_layers_are_as_wide_as_their_sizes_ask_for(drawn):
    model, _ = drawn
    maps = {id(m) for la in model.modules() if isinstance(la, LessAttention) for m in la.children()}
    checked = 0
    for name, module in model.named_modules():
        is_map = id(module) in maps and name.endswith(("theta", "psi"))
        if isinstance(module, nn.Linear) and not is_map and name != "head":
            wanted = math.sqrt(2 / (module.in_features + module.out_features)) * TRUNCATED
            assert module.weight.std().item() == pytest.approx(wanted, rel=0.1), name
            assert module.weight.std() > 2 * INIT_STD, name
            checked += 1
    assert checked > 20


def test_maps_classifier_norms_and_convolutions_stay_as_they_are(drawn):
    model, before = drawn
    for name, value in model.state_dict().items():
        if ".theta." in name or ".psi." in name or "head" in name or value.ndim != 2:
            assert value.equal(before[name]), name


def test_weights_of_another_architecture_are_refused(tmp_path):
    model = LaViT(CONFIG)
    preprocess = Preprocess(resize=64, crop=(64, 64))
    save_checkpoint(tmp_path / "m.pth", model, preprocess=preprocess, classes=("a", "b", "c"))
    weights = weights_of(tmp_path / "m.pth", CONFIG)
    assert weights.keys() == model.state_dict().keys()
    assert all(value.equal(weights[name]) for name, value in model.state_dict().items())
    with pytest.raises(UsageError, match=r"of another architecture: num_classes 3 -> 10, depths"):
        weights_of(tmp_path / "m.pth", lavit_micro())
