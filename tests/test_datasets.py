import io
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from coloured_pictures import folder  # noqa: F401 - a fixture
from idx_sets import idx_set
from lavit_deploy.common.errors import DatasetError
from lavit_deploy.datasets import FASHION_MNIST_CLASSES, FolderPictures, digit_pictures, open_data
from lavit_deploy.preprocess import decode
from lavit_deploy.training.pictures.picture_check import unreadable


def test_a_fifth_of_every_digit_is_held_out_and_none_is_in_both():
    digits = digit_pictures()
    assert (len(digits.train), len(digits.held_out)) == (1437, 360)
    everything = Counter(digits.train.labels) + Counter(digits.held_out.labels)
    for label, count in Counter(digits.held_out.labels).items():
        assert abs(count - 0.2 * everything[label]) <= 1
    seen = {digits.train.pixels[index].tobytes() for index in range(1437)}
    assert not any(digits.held_out.pixels[i].tobytes() in seen for i in range(360))


def test_a_digit_as_a_file_becomes_the_pixels_that_training_saw():
    digits = digit_pictures()
    file = io.BytesIO()
    Image.fromarray(digits.train.pixels[5]).save(file, "PNG")
    served = digits.preprocess(decode(file.getvalue()))
    np.testing.assert_array_equal(served, digits.preprocess(digits.train.image(5)))


def test_classes_are_the_folders_in_order(folder):
    data = open_data(str(folder), 64)
    assert data.classes == ("blue", "green", "red")
    assert list(data.train.labels) == [0] * 4 + [1] * 4 + [2] * 4
    assert data.preprocess.crop == (64, 64)


def test_other_files_are_left_alone(folder):
    (folder / "train" / "red" / "notes.txt").write_text("not a picture")
    assert len(open_data(str(folder), 64).train) == 12


def test_a_class_that_only_one_part_has_is_named(folder):
    (folder / "val" / "violet").mkdir()
    (folder / "val" / "red").rename(folder / "val" / "rot")
    with pytest.raises(DatasetError, match=r"not trained on: rot, violet; missing: red"):
        open_data(str(folder), 64)


def test_an_empty_class_is_named(folder):
    (folder / "train" / "void").mkdir()
    with pytest.raises(DatasetError, match=r"train/void has no pictures"):
        open_data(str(folder), 64)


def test_one_class_is_nothing_to_learn(folder):
    for part in ("train", "val"):
        for name in ("red", "green"):
            shutil.rmtree(folder / part / name)
    with pytest.raises(DatasetError, match="train has one folder, blue; expected one for each of"):
        open_data(str(folder), 64)


def test_missing_parts_are_named(tmp_path):
    with pytest.raises(DatasetError, match="has no train and no val"):
        open_data(str(tmp_path), 64)
    with pytest.raises(DatasetError, match="no data at"):
        open_data(str(tmp_path / "absent"), 64)


def test_digits_have_one_size():
    with pytest.raises(DatasetError, match="64 pixels wide, the recipe says 224"):
        open_data("digits", 224)


def test_every_broken_picture_is_listed(folder):
    (folder / "train" / "blue" / "1.png").write_bytes(b"no picture")
    good = (folder / "train" / "red" / "2.png").read_bytes()
    (folder / "train" / "red" / "2.png").write_bytes(good[: len(good) // 2])
    reasons = list(unreadable(FolderPictures(folder / "train"), threads=2))
    assert len(reasons) == 2
    assert "blue/1.png cannot be read" in reasons[0]
    assert "red/2.png cannot be read" in reasons[1]
    assert "truncated" in reasons[1]


def test_a_moved_folder_has_the_same_fingerprint_and_a_changed_one_has_not(folder, tmp_path):
    before = open_data(str(folder), 64).fingerprint()
    moved = folder.rename(tmp_path / "elsewhere")
    assert open_data(str(moved), 64).fingerprint() == before
    (moved / "train" / "red" / "0.png").rename(moved / "train" / "blue" / "9.png")
    assert open_data(str(moved), 64).fingerprint() != before


def test_fashion_mnist_is_read_from_a_folder_of_idx_files(tmp_path):
    images = idx_set(tmp_path, compressed=True)
    data = open_data(f"fashion-mnist:{tmp_path}", 28)
    assert data.classes == FASHION_MNIST_CLASSES[:3]
    assert (len(data.train), len(data.held_out)) == (9, 3)
    pixels = data.preprocess(data.train.image(4))
    np.testing.assert_array_equal(pixels, np.repeat(images[4][:, :, None], 3, axis=2))


def test_pictures_of_an_idx_set_are_shown_whole_at_any_size(tmp_path):
    idx_set(tmp_path)
    data = open_data(str(tmp_path), 64)
    assert data.preprocess.resize == 64
    assert data.preprocess(data.held_out.image(0)).shape == (64, 64, 3)
    assert data.classes == ("0", "1", "2")


def test_labels_that_leave_numbers_out_become_logits_that_do_not(tmp_path):
    idx_set(tmp_path, labels=(1, 4, 26))
    data = open_data(str(tmp_path), 28)
    assert data.classes == ("1", "4", "26")
    assert sorted(set(data.train.labels)) == [0, 1, 2]


def test_a_file_of_names_names_the_classes(tmp_path):
    idx_set(tmp_path)
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\n")
    assert open_data(str(tmp_path), 28).classes == ("ant", "bee", "cat")
    (tmp_path / "classes.txt").write_text("ant\nbee\n")
    with pytest.raises(DatasetError, match="label 2 occurs, there are 2 names"):
        open_data(str(tmp_path), 28)
    (tmp_path / "classes.txt").write_text("ant\nant\ncat\n")
    with pytest.raises(DatasetError, match="must name every class once"):
        open_data(str(tmp_path), 28)


def test_fashion_mnist_that_is_not_there_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("lavit_deploy.datasets.FASHION_MNIST_FOLDER", tmp_path / "absent")
    with pytest.raises(DatasetError, match=r"apt-get install dataset-fashion-mnist .*:FOLDER"):
        open_data("fashion-mnist", 28)
    with pytest.raises(DatasetError, match="names no folder"):
        open_data("fashion-mnist:", 28)
    with pytest.raises(DatasetError, match="no folder at"):
        open_data(f"fashion-mnist:{tmp_path / 'absent'}", 28)


def test_held_out_labels_must_have_been_trained_on(tmp_path):
    idx_set(tmp_path, held_out_labels=(0, 1, 7))
    with pytest.raises(DatasetError, match=r"labels not trained on: \[7\]"):
        open_data(str(tmp_path), 28)


def test_folders_of_pictures_are_meant_before_idx_files(folder):
    idx_set(folder)
    assert open_data(str(folder), 64).classes == ("blue", "green", "red")
