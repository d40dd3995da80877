import pytest

from lavit_deploy.common.errors import UsageError
from lavit_deploy.export.quantization.calibration import open_split

CLASSES = ("ant", "bee", "cat", "dog", "eel")


def test_one_folder_is_split_and_no_picture_is_on_both_sides(picture_folder, tiny_preprocess):
    split = open_split(str(picture_folder), None, tiny_preprocess, CLASSES)
    seen = {image.tobytes() for image in split.calibration.images}
    judged = {image.tobytes() for image in split.held_out.images}
    assert len(seen) + len(judged) == 40
    assert not seen & judged
    again = open_split(str(picture_folder), str(picture_folder), tiny_preprocess, CLASSES)
    assert len(again.calibration) == len(split.calibration)


def test_labels_come_from_folders_named_as_classes(picture_folder, tiny_preprocess):
    split = open_split(str(picture_folder), None, tiny_preprocess, CLASSES)
    assert set(split.held_out.labels) == {0, 1}
    other = open_split(str(picture_folder), None, tiny_preprocess, ("x", "y"))
    assert other.held_out.labels is None


def test_of_very_many_pictures_some_are_judged_on_and_the_rest_are_not_read(
    picture_folder, tiny_preprocess, monkeypatch
):
    from lavit_deploy.export.quantization import calibration

    monkeypatch.setattr(calibration, "MOST_HELD_OUT", 4)
    split = open_split(str(picture_folder), None, tiny_preprocess, CLASSES)
    assert len(split.held_out) == 4
    # 41 files, every fifth of which is held out
    assert split.held_out.source == f"4 of 9 pictures of {picture_folder.name}"
    other = open_split("digits", str(picture_folder), tiny_preprocess, CLASSES)
    assert other.held_out.source == f"4 of 41 pictures of {picture_folder.name}"


def test_an_unreadable_picture_is_listed_and_skipped(picture_folder, tiny_preprocess):
    split = open_split(str(picture_folder), None, tiny_preprocess, CLASSES)
    skipped = split.calibration.skipped + split.held_out.skipped
    assert len(skipped) == 1
    assert skipped[0].startswith("ant/broken.png: ")


def test_fewer_than_300_pictures_are_warned_of(picture_folder, tiny_preprocess):
    split = open_split(str(picture_folder), None, tiny_preprocess, CLASSES)
    assert split.warning.startswith(f"{len(split.calibration)} calibration pictures")
    digits = open_split("digits", None, tiny_preprocess, CLASSES)
    assert not digits.warning


def test_no_readable_picture_is_an_error_and_noise_is_not_used(tmp_path, tiny_preprocess):
    with pytest.raises(UsageError, match="no readable picture: the folder is empty"):
        open_split(str(tmp_path), None, tiny_preprocess, CLASSES)
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(UsageError, match="no readable picture"):
        open_split(str(tmp_path), None, tiny_preprocess, CLASSES)
    with pytest.raises(UsageError, match="no folder of pictures at"):
        open_split(str(tmp_path / "absent"), None, tiny_preprocess, CLASSES)


def test_digits_to_calibrate_and_to_judge_on_are_different(tiny_preprocess):
    split = open_split("digits", None, tiny_preprocess, CLASSES)
    assert len(split.calibration) == 512
    assert len(split.held_out) == 360
    assert split.held_out.labels is not None
