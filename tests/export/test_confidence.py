"""Confidence fitted at export, and answered from the bundle."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.bundle.inference import classify
from lavit_deploy.datasets import digit_pictures
from lavit_deploy.export.cli import main
from lavit_deploy.export.confidence import PLOT_NAME

pytestmark = pytest.mark.slow

CHECKPOINT = Path(__file__).parents[2] / "examples" / "lavit_digits.pth"


def exported(out, *options):
    arguments = ["--ckpt", str(CHECKPOINT), "--target", "onnx", "--batch", "1", "8", "64"]
    assert main([*arguments, "--out", str(out), *options]) == 0
    return Bundle.open(out)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("fitted") / "b", "--eval", "digits")


def test_held_out_labels_give_a_temperature_and_a_threshold(fitted):
    found = fitted.manifest.confidence
    assert found.pictures == 360
    assert found.error < 0.02 < found.error_before  # the labels of its training were smoothed
    assert found.likelihood < found.likelihood_before
    assert "reliability" in PLOT_NAME
    assert (fitted.path / PLOT_NAME).read_text().startswith("<?xml")


def test_answers_are_calibrated_and_as_many_known_pictures_unknown_as_allowed(fitted):
    pictures = digit_pictures().held_out
    answers = classify(fitted, [pictures.image(index) for index in range(len(pictures))])
    right = [
        fitted.manifest.classes.index(answer[0][0]) == label
        for answer, label in zip(answers, pictures.labels, strict=True)
    ]
    confidence = np.mean([answer[0][1] for answer in answers])
    assert confidence == pytest.approx(np.mean(right), abs=0.01)
    assert sum(answer.unknown for answer in answers) == 18  # 5 % of 360


def test_without_pictures_nothing_is_fitted_and_nothing_is_unknown(tmp_path):
    bundle = exported(tmp_path / "b")
    assert bundle.manifest.confidence is None
    assert not (bundle.path / PLOT_NAME).exists()
    assert classify(bundle, digit_pictures().held_out.image(0)).unknown is None


def test_pictures_without_labels_are_said_to_decide_on_nothing(tmp_path, capsys):
    folder = tmp_path / "unsorted"
    folder.mkdir()
    Image.new("RGB", (64, 64)).save(folder / "a.png")
    bundle = exported(tmp_path / "b", "--eval", str(folder))
    assert bundle.manifest.confidence is None
    assert "have no labels" in bundle.manifest.no_confidence
    assert "no confidence was fitted" in capsys.readouterr().out
