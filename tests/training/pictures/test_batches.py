import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lavit_deploy.common.errors import DatasetError
from lavit_deploy.datasets import open_data
from lavit_deploy.preprocess import Preprocess
from lavit_deploy.training.pictures.batches import (
    EvaluationView,
    TrainingView,
    evaluation_batches,
    random_crop,
    training_batches,
)
from lavit_deploy.training.pictures.sampling import epoch_batches
from lavit_deploy.training.recipe import Recipe

SMALL = Preprocess(resize=16, crop=(16, 12))


@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    seed=st.integers(0, 2**63 - 1),
    least=st.floats(0.01, 1.0),
)
def test_a_random_crop_has_the_models_size_whatever_the_picture(width, height, seed, least):
    image = Image.new("RGB", (width, height), (10, 20, 30))
    pixels = random_crop(image, SMALL, (least, 1.0), seed)
    assert pixels.shape == (16, 12, 3)
    assert (pixels == (10, 20, 30)).all()  # nothing from outside of the picture


def test_a_random_crop_is_decided_by_its_seed():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    crops = [random_crop(image, SMALL, (0.1, 0.5), seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(crops[0], crops[1])
    assert (crops[0] != crops[2]).any()


def test_without_random_crops_training_sees_what_the_service_sees(data):
    view = TrainingView(data.train, data.preprocess, (1.0, 1.0))
    (sample, *_), *_ = epoch_batches(27, Recipe(batch_size=8), 0)
    expected = data.preprocess(data.train.image(sample.picture))
    np.testing.assert_array_equal(view[sample].pixels, expected)


def test_loader_processes_do_not_change_the_batches(folder):
    data = open_data(str(folder), 64)
    view = TrainingView(data.train, data.preprocess, (0.2, 1.0))
    batches = epoch_batches(12, Recipe(batch_size=4), 0)
    alone, helped = (list(training_batches(view, batches, workers)) for workers in (0, 1))
    assert len(alone) == len(helped) == 3
    for one, other in zip(alone, helped, strict=True):
        assert one.pixels.equal(other.pixels)
        assert one.labels.equal(other.labels)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_picture_is_named_also_by_a_loader_process(folder, workers):
    (folder / "val" / "green" / "0.png").write_bytes(b"\x89PNG and nothing more")
    data = open_data(str(folder), 64)
    view = EvaluationView(data.held_out, data.preprocess)
    with pytest.raises(DatasetError, match=r"^\S+/val/green/0.png cannot be read: [^\n]+$"):
        list(evaluation_batches(view, [[0, 1], [2, 3]], workers))


def test_loaders_outlive_a_sigterm_that_is_not_their_parents(folder):
    """As systemd and Slurm send it: to every process at once."""
    data = open_data(str(folder), 64)
    view = TrainingView(data.train, data.preprocess, (0.2, 1.0))
    batches = epoch_batches(12, Recipe(batch_size=1, repeats=1), 0)
    loading = training_batches(view, batches, 1)
    next(loading)
    (loader,) = multiprocessing.active_children()
    other = f"import os, signal; os.kill({loader.pid}, signal.SIGTERM)"
    subprocess.run([sys.executable, "-c", other], check=True)
    assert len(list(loading)) == len(batches) - 1

    loading = training_batches(view, batches, 1)
    next(loading)
    (loader,) = multiprocessing.active_children()
    loader.terminate()  # the parent's own
    loader.join(30)
    assert loader.exitcode == 0
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        list(loading)
