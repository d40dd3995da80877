"""The checkpoint and the pictures that come with the project."""

import csv
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lavit_deploy.checkpoint import load_checkpoint
from lavit_deploy.datasets import (
    FASHION_MNIST_CLASSES,
    FASHION_MNIST_FOLDER,
    digit_pictures,
    fashion_mnist,
)
from lavit_deploy.preprocess import decode, normalise

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def digits():
    return digit_pictures()


@pytest.fixture(scope="module")
def checkpoint():
    return load_checkpoint(EXAMPLES / "lavit_digits.pth")


@torch.inference_mode()
def answers(checkpoint, pictures):
    images = torch.from_numpy(normalise(np.stack(pictures), checkpoint.preprocess))
    return checkpoint.build()(images).argmax(dim=1).tolist()


def test_the_digits_checkpoint_says_all_about_itself(checkpoint, digits):
    assert checkpoint.inferred == ()
    assert checkpoint.architecture == "lavit_micro"
    assert checkpoint.classes == digits.classes
    assert checkpoint.preprocess == digits.preprocess


def test_the_digits_checkpoint_is_at_least_97_percent_right_on_held_out_digits(checkpoint, digits):
    pictures = [
        checkpoint.preprocess(digits.held_out.image(index)) for index in range(len(digits.held_out))
    ]
    right = np.equal(answers(checkpoint, pictures), digits.held_out.labels).mean()
    assert right >= 0.97


def test_the_pictures_are_what_evaluation_saw_and_carry_their_class(checkpoint, digits):
    files = sorted((EXAMPLES / "images").glob("*.png"))
    assert [path.name for path in files] == [f"{digit}_digit.png" for digit in range(10)]
    labels = list(digits.held_out.labels)
    for digit, path in enumerate(files):
        served = checkpoint.preprocess(decode(path.read_bytes()))
        expected = digits.preprocess(digits.held_out.image(labels.index(digit)))
        np.testing.assert_array_equal(served, expected)


def test_the_script_makes_the_pictures_again(digits, tmp_path):
    spec = importlib.util.spec_from_file_location("pictures", EXAMPLES / "pictures.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.write_pictures(digits, tmp_path)
    for path in (EXAMPLES / "images").glob("*.png"):
        again = np.asarray(Image.open(tmp_path / path.name))
        np.testing.assert_array_equal(np.asarray(Image.open(path)), again)


CLOTHES = EXAMPLES / "fashion_mnist"


def script(name):
    spec = importlib.util.spec_from_file_location(name, CLOTHES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def clothes():
    return load_checkpoint(EXAMPLES / "lavit_fashion_mnist.pth")


def test_the_clothes_checkpoint_says_all_about_itself_and_is_small(clothes):
    assert clothes.inferred == ()
    assert clothes.classes == FASHION_MNIST_CLASSES
    assert clothes.file.stat().st_size < 8e6
    assert any(clothes.config.la_start)  # it has less-attention layers
    assert clothes.config.attention_residual


def test_the_clothes_checkpoint_knows_the_pictures_beside_it(clothes):
    file_name = script("card").file_name
    files = [CLOTHES / "pictures" / f"{file_name(name)}.png" for name in clothes.classes]
    assert sorted(files) == sorted((CLOTHES / "pictures").glob("*.png"))
    pictures = [clothes.preprocess(decode(path.read_bytes())) for path in files]
    right = np.equal(answers(clothes, pictures), range(len(files))).sum()
    assert right >= 9


@pytest.mark.slow
@pytest.mark.skipif(
    not FASHION_MNIST_FOLDER.is_dir(), reason="dataset-fashion-mnist is not installed"
)
def test_the_clothes_card_has_the_accuracy_that_the_checkpoint_has(clothes):
    data = fashion_mnist(None, clothes.preprocess.crop[0])
    logits = script("card").test_logits(clothes, data)
    accuracy = np.equal(logits.argmax(axis=1), data.held_out.labels).mean()
    assert f"**accuracy {accuracy:.2%}**" in (CLOTHES / "README.md").read_text()


def test_the_curve_ends_with_the_checkpoint_s_training(clothes):
    with (CLOTHES / "training.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    printed = re.search(r"\*\*accuracy ([\d.]+)%\*\*", (CLOTHES / "README.md").read_text())[1]
    of_last = [row for row in rows if row["training"] == rows[-1]["training"] and row["best"]]
    best = max(float(row[column]) for row in of_last for column in ("accuracy", "ema_accuracy"))
    assert f"{100 * best:.2f}" == printed
