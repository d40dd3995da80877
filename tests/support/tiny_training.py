"""A tiny model, and a short recipe with every kind of augmentation switched on."""

from coloured_pictures import CLASSES
from lavit_deploy.model.config import LaViTConfig
from lavit_deploy.training.recipe import Recipe

CONFIG = LaViTConfig(
    image_size=(64, 64),
    num_classes=len(CLASSES),
    depths=(1, 1, 2, 2),
    dims=(8, 8, 16, 16),
    heads=(1, 1, 2, 2),
    mlp_ratios=(1, 1, 1, 1),
    sr_ratios=(8, 4, 2, 1),
    la_start=(0, 0, 2, 2),
)

RECIPE = Recipe(
    image_size=64,
    epochs=2,
    batch_size=8,
    repeats=2,
    base_lr=0.5,
    warmup_epochs=0.5,
    ema_epochs=0.5,
    crop_scale=(0.3, 1.0),
    rotation=5.0,
    seed=4,
)
