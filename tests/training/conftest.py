"""A tiny data set, and trainings of the tiny model on it."""

import dataclasses

import numpy as np
import pytest
import torch

from coloured_pictures import CLASSES, coloured, folder  # noqa: F401 - folder is a fixture
from lavit_deploy.datasets import ArrayPictures, DataSource
from lavit_deploy.preprocess import Preprocess
from lavit_deploy.training.distributed import World
from lavit_deploy.training.interruption import Interruption
from lavit_deploy.training.reporting import ProgressBar
from lavit_deploy.training.trainer import RunSettings, Trainer
from tiny_models import seeded, tiny_checkpoint, tiny_checkpoint_file, tiny_model, tiny_preprocess  # noqa: F401 - fixtures
from tiny_training import CONFIG, RECIPE


@pytest.fixture(autouse=True)
def _one_thread():
    """Sums in one order, and no threads waiting for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def data():
    """27 pictures to train on (3 steps of 8), 11 held out."""
    random = np.random.default_rng(0)

    def pictures(count):
        labels = [index % len(CLASSES) for index in range(count)]
        return ArrayPictures(np.stack([coloured(label, random) for label in labels]), labels)

    return DataSource(pictures(27), pictures(11), CLASSES, Preprocess(resize=64, crop=(64, 64)))


@pytest.fixture
def recipe():
    return RECIPE


class StoppingProgressBar(ProgressBar):
    """Raises a signal after a number of batches, as a person pressing Ctrl-C would."""

    def __init__(self, signal_number=None, after=None):
        super().__init__(10, quiet=True)
        self.signal_number, self.after, self.batches = signal_number, after, 0

    def advance(self):
        super().advance()
        self.batches += 1
        if self.batches == self.after:
            import signal

            signal.raise_signal(self.signal_number)


@pytest.fixture
def make_trainer(data, tmp_path):
    """A trainer of the tiny model, on one process; other changes go to the recipe."""

    def make(out="out", teacher=None, **changes):
        return Trainer(
            dataclasses.replace(RECIPE, **changes),
            CONFIG,
            data,
            RunSettings(out=tmp_path / out, events=False),
            World(0, 1, torch.device("cpu")),
            teacher=teacher,
        )

    return make


@pytest.fixture
def run():
    """Run a trainer, with a signal after some batches if asked; what it returned."""

    def run(trainer, signal_number=None, after=None):
        with Interruption() as interruption:
            return trainer.run(interruption, StoppingProgressBar(signal_number, after))

    return run
