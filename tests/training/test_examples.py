"""The checkpoint and the pictures that come with the project."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lavit_deploy.checkpoint import load_checkpoint
from lavit_deploy.datasets import digit_pictures
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
