"""Augmentation of whole batches, on the device that trains: kornia, DeiT's choices.

Everything here draws from torch's global generators, which the trainer seeds before every step.
"""

from __future__ import annotations

from typing import NamedTuple

import kornia.augmentation as K
import torch
from kornia.augmentation.auto import RandAugment
from torch import Tensor, nn
from torch.nn import functional as F

from lavit_deploy.preprocess import Preprocess
from lavit_deploy.training.recipe import Recipe

_RAND_AUGMENT_LEVELS = 30
_RAND_AUGMENT_GROUPS = 16
"""kornia draws the operations once per call: a batch is cut into this many parts."""

_SHEAR = 0.0928
"""Largest shear, 0.3 in DeiT's unit, in kornia's: atan(0.3) = 16.7 degrees, of 180."""

_POLICY: list[list[tuple[str, float | int, float | int | None]]] = [
    [("auto_contrast", 0, 1)],
    [("equalize", 0, 1)],
    [("invert", 0, 1)],
    [("rotate", -30.0, 30.0)],
    [("posterize", 4.0, 8.0)],
    [("solarize", 0.0, 1.0)],
    [("solarize_add", 0.0, 0.43)],
    [("color", 0.1, 1.9)],
    [("contrast", 0.1, 1.9)],
    [("brightness", 0.1, 1.9)],
    [("sharpness", 0.1, 1.9)],
    [("shear_x", -_SHEAR, _SHEAR)],
    [("shear_y", -_SHEAR, _SHEAR)],
    [("translate_x", -0.45, 0.45)],
    [("translate_y", -0.45, 0.45)],
]
"""kornia's default policy with DeiT's shear and translation."""


class Augmented(NamedTuple):
    """What a training step computes on.

    Attributes:
        images: normalised float32 [B, 3, H, W].
        targets: class probabilities float32 [B, K].
    """

    images: Tensor
    targets: Tensor


class Normalise(nn.Module):
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W], bit for bit `lavit_deploy.preprocess.normalise`.

    Split in two: augmentation works between `scale` (0..1) and `standardise`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        # [3] -> [3, 1, 1], one number per channel
        self.register_buffer("mean", torch.tensor(preprocess.mean).reshape(3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocess.std).reshape(3, 1, 1))

    def scale(self, pixels: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] from 0 to 1."""
        return pixels.permute(0, 3, 1, 2).float().contiguous() / 255.0

    def standardise(self, images: Tensor) -> Tensor:
        """Mean and standard deviation applied, [B, 3, H, W]."""
        return (images - self.mean) / self.std

    def forward(self, pixels: Tensor) -> Tensor:
        return self.standardise(self.scale(pixels))


class Augment(nn.Module):
    """Flip, affine map, RandAugment, normalisation, mixup or CutMix, erasing, in this order.

    Args:
        recipe: says which and how strong.
        preprocess: mean and standard deviation.
        num_classes: K.
    """

    def __init__(self, recipe: Recipe, preprocess: Preprocess, num_classes: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.num_classes = num_classes
        self.normalise = Normalise(preprocess)
        self.geometric = nn.Sequential(*_geometric(recipe))
        self.rand_augment = (
            RandAugment(
                n=recipe.rand_augment_ops,
                m=_rand_augment_level(recipe.rand_augment_magnitude),
                policy=_POLICY,
            )
            if recipe.rand_augment_ops and recipe.rand_augment_magnitude
            else None
        )
        self.cutmix = K.RandomCutMixV2(
            beta=recipe.cutmix_alpha,
            data_keys=["input", "class"],
            use_correct_lambda=True,
            same_on_batch=True,
        )
        self.erase = (
            # DeiT's sizes. Erased parts become zero after normalisation: the mean colour.
            K.RandomErasing(p=recipe.erase_probability, scale=(0.02, 1 / 3), ratio=(0.3, 3.3))
            if recipe.erase_probability
            else None
        )

    @torch.no_grad()
    def forward(self, pixels: Tensor, labels: Tensor) -> Augmented:
        """Augment one batch.

        Args:
            pixels: uint8 [B, H, W, 3].
            labels: int64 [B].
        """
        images = self.geometric(self.normalise.scale(pixels))
        if self.rand_augment is not None:
            groups = min(_RAND_AUGMENT_GROUPS, len(images))
            images = torch.cat([self.rand_augment(part) for part in images.chunk(groups)])
        images = self.normalise.standardise(images.clamp(0.0, 1.0))
        targets = smoothed(labels, self.num_classes, self.recipe.label_smoothing)
        if torch.rand(()).item() < self.recipe.mix_probability:
            images, targets = self._mixed(images, targets)
        if self.erase is not None:
            images = self.erase(images)
        return Augmented(images, targets)

    def _mixed(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if torch.rand(()).item() < self.recipe.cutmix_share:
            numbers = torch.arange(len(images), device=images.device)
            images, mixed = self.cutmix(images, numbers)
            # kornia gives (own, other, share of own) per picture: [1, B, 3]
            own, other, share = mixed[0].unbind(-1)
            return images, torch.lerp(targets[other.long()], targets[own.long()], share[:, None])
        alpha = self.recipe.mixup_alpha
        share = torch.distributions.Beta(alpha, alpha).sample().item()
        other = torch.randperm(len(images)).to(images.device)
        return (
            torch.lerp(images[other], images, share),
            torch.lerp(targets[other], targets, share),
        )


def _geometric(recipe: Recipe) -> list[nn.Module]:
    """Only what the recipe asks for: an affine map by nothing would still resample."""
    modules: list[nn.Module] = []
    if recipe.flip_probability:
        modules.append(K.RandomHorizontalFlip(p=recipe.flip_probability))
    if recipe.rotation or recipe.translation or recipe.zoom or recipe.shear:
        modules.append(
            K.RandomAffine(
                degrees=recipe.rotation,
                translate=(recipe.translation, recipe.translation),
                scale=(1.0 - recipe.zoom, 1.0 + recipe.zoom),
                shear=recipe.shear,
                p=1.0,
            )
        )
    return modules


def _rand_augment_level(magnitude: float) -> int:
    """A share as one of kornia's levels, which exclude 0 and 30."""
    return min(max(round(magnitude * _RAND_AUGMENT_LEVELS), 1), _RAND_AUGMENT_LEVELS - 1)


def smoothed(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Labels [B] -> class probabilities [B, K], `smoothing` of each spread over all classes."""
    exact = F.one_hot(labels, num_classes).float()
    return exact * (1.0 - smoothing) + smoothing / num_classes
