"""What each process of test_distributed runs: trainings of the tiny model without randomness.

torchrun_script.py OUT STOP_AFTER RESUME [OUT STOP_AFTER RESUME ...]
"""

import dataclasses
import signal
import sys
from pathlib import Path

import numpy as np
import torch

from lavit_deploy.datasets import ArrayPictures, DataSource
from lavit_deploy.model.config import LaViTConfig
from lavit_deploy.preprocess import Preprocess
from lavit_deploy.training.distributed import joined
from lavit_deploy.training.interruption import Interruption
from lavit_deploy.training.recipe import Recipe
from lavit_deploy.training.reporting import ProgressBar
from lavit_deploy.training.resume_point import load_state
from lavit_deploy.training.trainer import RunSettings, Trainer

CONFIG = LaViTConfig(
    image_size=(64, 64),
    num_classes=3,
    depths=(1, 1, 2, 2),
    dims=(8, 8, 16, 16),
    heads=(1, 1, 2, 2),
    mlp_ratios=(1, 1, 1, 1),
    sr_ratios=(8, 4, 2, 1),
    la_start=(0, 0, 2, 2),
    attention_residual=False,  # BatchNorm would see half a batch on each of two processes
)
RECIPE = Recipe(
    image_size=64,
    epochs=2,
    batch_size=8,
    repeats=1,
    base_lr=0.1,
    warmup_epochs=0.0,
    ema_epochs=1.0,
    drop_path=0.0,
    crop_scale=(1.0, 1.0),
    flip_probability=0.0,
    rand_augment_ops=0,
    mix_probability=0.0,
    erase_probability=0.0,
)


def pictures(count, seed):
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    return ArrayPictures(pixels, [index % 3 for index in range(count)])


class Stopping(ProgressBar):
    """Raises SIGTERM in the last process alone: all must agree to stop."""

    def __init__(self, world, after):
        super().__init__(2, quiet=True)
        self.left = after if world.rank == world.size - 1 else 0

    def advance(self):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGTERM)


def train(world, out, stop_after, resume):
    data = DataSource(
        pictures(24, 0),
        pictures(7, 1),
        ("a", "b", "c"),
        Preprocess(resize=64, crop=(64, 64)),
    )
    # A folder per process shows which of them write.
    folder = Path(out) / f"rank{world.rank}"
    settings = RunSettings(out=folder, events=False)
    trainer = Trainer(dataclasses.replace(RECIPE), CONFIG, data, settings, world)
    if resume:
        trainer.restore(load_state(Path(out) / "rank0" / "last.pth"))
    with Interruption() as interruption:
        stopped = trainer.run(interruption, Stopping(world, stop_after))
    weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    torch.save(weights, Path(out) / f"weights{world.rank}.pth")
    if stopped != (signal.SIGTERM if stop_after else 0):
        raise SystemExit(f"stopped by {stopped}")


def main(arguments):
    torch.set_num_threads(1)
    with joined("cpu") as world:
        for out, stop_after, resume in zip(*[iter(arguments)] * 3, strict=True):
            train(world, out, int(stop_after), resume == "resume")


if __name__ == "__main__":
    main(sys.argv[1:])
