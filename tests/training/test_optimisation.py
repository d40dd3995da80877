import dataclasses

import pytest
import torch
from torch import nn

from lavit_deploy.model.config import lavit_micro
from lavit_deploy.model.lavit import LaViT
from lavit_deploy.model.losses import dp_loss
from lavit_deploy.training.optimisation import (
    Objective,
    averaged,
    learning_rate_share,
    parameter_groups,
)
from lavit_deploy.training.recipe import Recipe


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LaViT(dataclasses.replace(lavit_micro(), class_token=True))


def test_decay_spares_vectors_la_maps_and_the_class_token(model):
    decayed, kept = parameter_groups(model, 0.05)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.05, 0.0)
    names = {id(value): name for name, value in model.named_parameters()}
    decayed_names = {names[id(value)] for value in decayed["params"]}
    kept_names = {names[id(value)] for value in kept["params"]}
    assert decayed_names | kept_names == set(names.values())
    assert not decayed_names & kept_names
    assert "stages.2.blocks.1.attn.theta.weight" in kept_names
    assert "stages.3.blocks.2.attn.psi.weight" in kept_names
    assert "stages.3.class_token" in kept_names
    assert all(value.ndim > 1 for value in decayed["params"])
    assert {"head.weight", "stages.2.blocks.1.attn.v.weight"} <= decayed_names


def test_the_learning_rate_warms_up_then_follows_a_cosine():
    share = learning_rate_share(
        Recipe(epochs=10, warmup_epochs=2, final_lr_share=0.1), steps_per_epoch=4
    )
    assert [share(step) for step in range(8)] == pytest.approx([n / 9 for n in range(1, 9)])
    assert share(8) == 1.0
    middle = 8 + (39 - 8) / 2
    assert (share(int(middle)) + share(int(middle) + 1)) / 2 == pytest.approx(0.55)
    assert share(39) == pytest.approx(0.1)
    assert all(share(step) > share(step + 1) for step in range(8, 39))


def test_without_warm_up_the_first_step_has_the_peak():
    assert learning_rate_share(Recipe(epochs=2, warmup_epochs=0), 1)(0) == 1.0


def test_the_average_follows_the_weights_as_by_hand():
    model = nn.Linear(1, 1)
    recipe = Recipe(epochs=4, warmup_epochs=0, ema_epochs=1.0)
    ema = averaged(model, recipe, steps_per_epoch=2)  # longest decay 1 - 1 / 2
    by_hand = None
    for step, value in enumerate((1.0, 5.0, -2.0, 8.0)):
        nn.init.constant_(model.weight, value)
        ema.update_parameters(model)
        decay = min(0.5, (1 + step) / (10 + step))
        by_hand = value if by_hand is None else decay * by_hand + (1 - decay) * value
        assert ema.module.weight.item() == pytest.approx(by_hand)


def test_the_objective_is_cross_entropy_plus_the_weighted_dp_loss(model):
    images, targets = torch.randn(3, 3, 64, 64), torch.eye(10)[[1, 2, 3]]
    logits, scores = model.forward_with_scores(images)
    expected = nn.functional.cross_entropy(logits, targets) + 0.3 * dp_loss(scores, model.config)
    losses = Objective(model, 0.3)(images, targets)
    assert losses.total.item() == pytest.approx(expected.item())
    assert losses.diagonality.item() == pytest.approx(dp_loss(scores, model.config).item())


def test_weight_zero_measures_the_dp_loss_without_its_gradient(model):
    images, targets = torch.randn(3, 3, 64, 64), torch.eye(10)[[1, 2, 3]]
    losses = Objective(model, 0.0)(images, targets)
    assert losses.total is losses.classification or losses.total.equal(losses.classification)
    assert not losses.diagonality.requires_grad
    assert losses.diagonality.item() != 0.0
