import dataclasses
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


@pytest.fixture
def checkpoint(tmp_path):
    """A tiny model whose BatchNorm and maps are not as they were drawn."""
    torch.manual_seed(1)
    model = LaViT(CONFIG).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model(torch.randn(4, 3, 64, 64))
    preprocess = Preprocess(resize=64, crop=(64, 64))
    path = tmp_path / "m.pth"
    save_checkpoint(path, model.eval(), preprocess=preprocess, classes=("a", "b", "c"))
    return path, model


def test_the_same_architecture_has_the_checkpoint_s_weights(checkpoint):
    path, model = checkpoint
    weights = weights_of(path, CONFIG)
    assert weights.keys() == model.state_dict().keys()
    assert all(value.equal(weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("depths", "la_start"),
    [
        pytest.param((1, 1, 2, 4), (0, 0, 2, 2), id="in the last stage"),
        pytest.param((2, 3, 3, 3), (2, 2, 2, 2), id="in every stage"),
    ],
)
def test_a_deeper_model_begins_with_the_function_of_the_checkpoint(checkpoint, depths, la_start):
    path, model = checkpoint
    deeper = LaViT(dataclasses.replace(CONFIG, depths=depths, la_start=la_start))
    xavier(deeper)
    unknown = deeper.load_state_dict(weights_of(path, deeper.config), strict=False)
    assert not unknown.unexpected_keys
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(deeper.eval()(images), model(images), rtol=0, atol=1e-5)
    deeper.train()(images).square().sum().backward()
    for stage in deeper.stages:
        for block in stage.blocks:  # new layers can leave the identity
            assert block.mlp.fc2.weight.grad.abs().max() > 0
            assert block.attn.proj.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 10}, "num_classes 3 -> 10"),
        ({"depths": (1, 1, 1, 2), "la_start": (0, 0, 0, 2)}, r"depths \[1, 1, 2, 2\] -> \[1, 1, 1"),
        (
            {"depths": (2, 1, 2, 2)},
            r"depths \[1, 1, 2, 2\] -> \[2, 1, 2, 2\]",
        ),  # with its own scores
        ({"depths": (1, 1, 3, 3), "la_start": (0, 0, 3, 2)}, r"la_start \[0, 0, 2, 2\] -> "),
        ({"depths": (1, 1, 3, 2), "dims": (8, 8, 16, 32)}, "dims"),
    ],
)
def test_another_architecture_is_refused(checkpoint, changes, message):
    path, _ = checkpoint
    with pytest.raises(UsageError, match=rf"of another architecture: .*{message}"):
        weights_of(path, dataclasses.replace(CONFIG, **changes))
