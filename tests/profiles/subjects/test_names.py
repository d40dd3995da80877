import pytest

from lavit_deploy.common.errors import (
    BundleError,
    CheckpointError,
    UsageError,
)
from lavit_deploy.profiles.baselines import BASELINES
from lavit_deploy.profiles.subjects.names import resolve
from lavit_deploy.profiles.subjects.profiled_model import RunSettings

HERE = RunSettings()


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(UsageError) as caught:
        resolve("lavit_xxl", HERE)
    for name in ("'lavit_xxl'", "lavit_s", *BASELINES):
        assert name in str(caught.value)


def test_a_missing_checkpoint_is_not_called_an_unknown_model(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        resolve(str(tmp_path / "gone.pth"), HERE)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    file = tmp_path / "notes.pth"
    file.write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match=r"notes\.pth"):
        resolve(str(file), HERE)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match="not a bundle"):
        resolve(str(tmp_path), HERE)


def test_trained_weights_cannot_be_resized(tiny_checkpoint_file, tiny_bundle):
    for text in (str(tiny_checkpoint_file), str(tiny_bundle.path)):
        with pytest.raises(UsageError, match="32 x 32"):
            resolve(text, RunSettings(image_size=64))


def test_a_name_that_is_almost_right_is_answered_with_the_right_one():
    for given, meant in (("swin_tny", "swin_tiny"), ("lavit-s", "lavit_s")):
        with pytest.raises(UsageError, match=f"no model '{given}'.* Did you mean {meant}?"):
            resolve(given, RunSettings())
    with pytest.raises(UsageError, match=r"@ can be followed by torch, torch-compile, cuda-graph"):
        resolve("lavit_s@onnx", RunSettings())
