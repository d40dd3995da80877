import dataclasses

import numpy as np
import pytest
import torch

from lavit_deploy.preprocess import Preprocess, normalise
from lavit_deploy.training.pictures.augmentation import Augment, Normalise, smoothed
from lavit_deploy.training.recipe import Recipe, digits, imagenet

PREPROCESS = Preprocess(resize=32, crop=(32, 32))
PLAIN = Recipe(
    label_smoothing=0.0,
    flip_probability=0.0,
    rand_augment_ops=0,
    mix_probability=0.0,
    erase_probability=0.0,
)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (12, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return pixels, torch.arange(12) % 4


def test_normalised_pixels_are_the_services_bit_for_bit(batch):
    pixels, _ = batch
    np.testing.assert_array_equal(
        Normalise(PREPROCESS)(pixels).numpy(), normalise(pixels.numpy(), PREPROCESS)
    )


def test_a_recipe_without_augmentation_changes_nothing(batch):
    pixels, labels = batch
    images, targets = Augment(PLAIN, PREPROCESS, 4)(pixels, labels)
    np.testing.assert_array_equal(images.numpy(), normalise(pixels.numpy(), PREPROCESS))
    assert targets.equal(torch.eye(4)[labels])


@pytest.mark.parametrize("recipe", [imagenet(), digits()], ids=["imagenet", "digits"])
def test_the_seed_decides_all_of_an_augmentation(batch, recipe):
    augment = Augment(recipe, PREPROCESS, 4)

    def augmented(seed):
        torch.manual_seed(seed)
        return augment(*batch)

    first, again, other = augmented(1), augmented(1), augmented(2)
    assert first.images.equal(again.images)
    assert first.targets.equal(again.targets)
    assert not first.images.equal(other.images)
    assert torch.isfinite(first.images).all()
    assert first.images.shape == (12, 3, 32, 32)


@pytest.mark.parametrize("cutmix_share", [0.0, 1.0], ids=["mixup", "cutmix"])
def test_labels_are_mixed_in_the_share_of_the_pixels(cutmix_share):
    """Pictures of one grey value per class: the mean pixel tells what was mixed."""
    labels = torch.arange(12) % 4
    grey = torch.tensor([0, 60, 150, 255])
    pixels = grey[labels].to(torch.uint8)[:, None, None, None].expand(12, 32, 32, 3)
    recipe = dataclasses.replace(PLAIN, mix_probability=1.0, cutmix_share=cutmix_share)
    plain = Preprocess(resize=32, crop=(32, 32), mean=(0, 0, 0), std=(1, 1, 1))
    augment = Augment(recipe, plain, 4)
    mixed = 0
    for seed in range(8):
        torch.manual_seed(seed)
        images, targets = augment(pixels, labels)
        assert targets.sum(dim=1).allclose(torch.ones(12))
        # 3072 float32 values of at most one, averaged
        assert images.mean(dim=(1, 2, 3)).allclose(targets @ (grey / 255.0), atol=1e-5)
        mixed += int((targets.max(dim=1).values < 0.999).sum())
    assert mixed > 20


def test_smoothing_spreads_a_share_over_all_classes():
    targets = smoothed(torch.tensor([1]), 4, 0.1)
    assert targets.allclose(torch.tensor([[0.025, 0.925, 0.025, 0.025]]))


def test_a_flip_mirrors(batch):
    pixels, labels = batch
    always = dataclasses.replace(PLAIN, flip_probability=1.0)
    images, _ = Augment(always, PREPROCESS, 4)(pixels, labels)
    expected = torch.from_numpy(normalise(pixels.numpy(), PREPROCESS)).flip(-1)
    assert images.allclose(expected)


def test_erasing_leaves_the_mean_colour(batch):
    pixels, labels = batch
    always = dataclasses.replace(PLAIN, erase_probability=1.0)
    images, _ = Augment(always, PREPROCESS, 4)(pixels, labels)
    kept = torch.from_numpy(normalise(pixels.numpy(), PREPROCESS))
    changed = (images != kept).any(dim=1)
    assert changed.flatten(1).any(dim=1).all()
    assert (images.permute(0, 2, 3, 1)[changed] == 0).all()
