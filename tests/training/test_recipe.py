import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavit_deploy.common.errors import UsageError
from lavit_deploy.training.recipe import RECIPES, Recipe, digits, imagenet


def test_the_default_is_the_papers_recipe():
    recipe = imagenet()
    assert (recipe.epochs, recipe.warmup_epochs, recipe.batch_size) == (300, 5.0, 1024)
    assert recipe.peak_lr == 0.005
    assert (recipe.weight_decay, recipe.label_smoothing) == (0.05, 0.1)


def test_the_learning_rate_scales_with_the_batch():
    assert dataclasses.replace(imagenet(), batch_size=256).peak_lr == pytest.approx(0.00125)


@pytest.mark.parametrize(
    ("name", "own", "peak"), [("digits", 64, 0.001), ("fashion-mnist", 128, 0.002)]
)
def test_small_pictures_scale_it_with_the_root_of_the_batch(name, own, peak):
    recipe = RECIPES[name]()
    assert recipe.batch_size == own
    assert recipe.peak_lr == pytest.approx(peak, rel=0.01)
    larger = dataclasses.replace(recipe, batch_size=4 * own)
    assert larger.peak_lr == pytest.approx(2 * recipe.peak_lr)


def test_a_recipe_of_an_earlier_version_scales_linearly():
    stored = {"base_lr": 0.016, "batch_size": 256}
    assert Recipe.from_dict(stored).peak_lr == pytest.approx(0.004)


def test_digits_are_never_mirrored_or_mixed():
    recipe = digits()
    assert recipe.flip_probability == recipe.mix_probability == recipe.rand_augment_ops == 0


@given(epochs=st.integers(1, 1000))
@pytest.mark.parametrize("name", RECIPES)
def test_another_length_keeps_the_shape_of_the_schedule(name, epochs):
    base = RECIPES[name]()
    scaled = base.for_epochs(epochs)
    assert scaled.epochs == epochs
    assert scaled.warmup_epochs / epochs == pytest.approx(base.warmup_epochs / base.epochs)
    assert scaled.ema_epochs / epochs == pytest.approx(base.ema_epochs / base.epochs)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_its_dictionary(name):
    recipe = RECIPES[name]()
    assert Recipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "epochs is 0; it must be a whole number of at least 1"),
        ("epochs", 2.5, "epochs is 2.5; it must be a whole number"),
        ("epochs", True, "epochs is True"),
        ("batch_size", "many", "batch_size is 'many'"),
        ("base_lr", 0, "base_lr is 0; it must be more than 0"),
        ("base_lr", float("nan"), "base_lr is nan; it must be a number"),
        ("weight_decay", -1, "weight_decay is -1; it must be at least 0"),
        ("label_smoothing", 1.5, "label_smoothing is 1.5; it is a share"),
        ("warmup_epochs", 300, "warmup_epochs is 300 of 300 epochs; it must be less"),
        ("precision", "int8", "precision is 'int8'; it must be one of auto, float32"),
        ("crop_scale", (0.5, 0.1), "crop_scale is (0.5, 0.1)"),
        ("crop_scale", 0.5, "crop_scale is 0.5"),
        ("seed", -1, "seed is -1"),
    ],
)
def test_a_value_that_makes_no_training_is_refused(field, value, message):
    with pytest.raises(UsageError) as error:
        Recipe(**{field: value})
    assert message in str(error.value)


def test_an_unknown_field_is_refused_and_the_known_ones_are_named():
    with pytest.raises(UsageError, match=r"no epoch; it has .*epochs"):
        Recipe.from_dict({"epoch": 3})
