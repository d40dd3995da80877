import dataclasses
from pathlib import Path

import pytest
import torch

from lavit_deploy.checkpoint import (
    load_checkpoint,
    save_checkpoint,
    write_pickle,
)
from lavit_deploy.common.errors import CheckpointError, ConfigError
from lavit_deploy.families.lavit import LAVIT
from lavit_deploy.model.config import lavit_micro, lavit_t
from lavit_deploy.model.lavit import LaViT
from lavit_deploy.preprocess import Preprocess

PREPROCESS = Preprocess(resize=64, crop=(64, 64), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
CLASSES = tuple("abcdefghij")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(5)
    return LaViT(lavit_micro()).eval()


def same_tensors(checkpoint, model):
    built = checkpoint.build().state_dict()
    return all(torch.equal(built[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_saved_is_read_back(model, tmp_path, suffix):
    path = tmp_path / f"m{suffix}"
    save_checkpoint(path, model, preprocess=PREPROCESS, classes=CLASSES)
    read = load_checkpoint(path)
    assert (read.config, read.preprocess, read.classes) == (model.config, PREPROCESS, CLASSES)
    assert read.architecture == "lavit_micro"
    assert read.inferred == ()
    assert same_tensors(read, model)


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
def test_a_bare_state_dict_is_recognised_under_any_wrapper(model, tmp_path, prefix):
    path = tmp_path / "bare.pth"
    torch.save({prefix + key: value for key, value in model.state_dict().items()}, path)
    read = load_checkpoint(path)
    assert read.architecture == "lavit_micro"
    assert any("from the tensor shapes" in sentence for sentence in read.inferred)
    assert same_tensors(read, model)


def test_a_state_dict_under_its_own_name_is_found(model, tmp_path):
    path = tmp_path / "lightning.ckpt"
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, path)
    assert same_tensors(load_checkpoint(path), model)


@pytest.mark.parametrize(
    "config",
    [
        lavit_micro(num_classes=3, image_size=96),
        dataclasses.replace(lavit_micro(), class_token=True),
        dataclasses.replace(lavit_micro(), attention_residual=False),
        lavit_t(num_classes=5),
    ],
    ids=["96 pixels", "class token", "no residual", "lavit_t"],
)
def test_the_configuration_is_inferred_from_the_shapes(config, tmp_path):
    path = tmp_path / "lavit_s.pth"  # the name does not count
    torch.save(LaViT(config).state_dict(), path)
    assert load_checkpoint(path).config == config


def test_averaged_weights_are_taken_on_request(model, tmp_path):
    path = tmp_path / "ema.pth"
    averaged = {f"module.{key}": value + 1 for key, value in model.state_dict().items()}
    averaged["n_averaged"] = torch.tensor(7)
    torch.save({"model": model.state_dict(), "model_ema": averaged}, path)
    read = load_checkpoint(path, use_ema=True)
    assert read.weights == "model_ema"
    assert torch.equal(read.build().head.bias, model.head.bias + 1)
    assert same_tensors(load_checkpoint(path), model)


def test_asking_for_averaged_weights_that_are_not_there_is_an_error(model, tmp_path):
    path = tmp_path / "m.pth"
    save_checkpoint(path, model, preprocess=PREPROCESS, classes=CLASSES)
    with pytest.raises(CheckpointError, match="no averaged weights"):
        load_checkpoint(path, use_ema=True)


def test_every_mismatch_is_listed(model, tmp_path):
    weights = dict(model.state_dict())
    del weights["norm.bias"]
    weights["stages.0.extra"] = torch.zeros(2)
    weights["head.weight"] = torch.zeros(10, 5)
    path = tmp_path / "m.pth"
    torch.save({"model": weights, "config": model.config.to_dict()}, path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path).build()
    message = str(caught.value)
    assert "missing    norm.bias [128]" in message
    assert "unexpected stages.0.extra [2]" in message
    assert "misshapen  head.weight [10, 5], the model has [10, 128]" in message


def test_tensors_of_another_network_are_refused_with_the_differences(tmp_path):
    path = tmp_path / "resnet.pth"
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path)
    with pytest.raises(CheckpointError, match=r"(?s)fit none of .*unexpected conv1.weight"):
        load_checkpoint(path)


class Hostile:
    def __reduce__(self):
        return (print, ("this must never be printed",))


def test_a_pickle_that_wants_to_run_code_is_refused_by_name(tmp_path, capsys):
    path = tmp_path / "evil.pth"
    torch.save({"model": Hostile()}, path)
    with pytest.raises(CheckpointError, match=r"wants to create .*print: refused"):
        load_checkpoint(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello\n", b"PK\x03\x04 not a zip", bytes(range(256))])
def test_bytes_that_are_no_checkpoint_are_refused(tmp_path, suffix, content):
    path = tmp_path / f"text{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="text"):
        load_checkpoint(path)


def test_a_truncated_checkpoint_is_refused(model, tmp_path):
    path = tmp_path / "m.pth"
    save_checkpoint(path, model, preprocess=PREPROCESS, classes=CLASSES)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)


def test_a_missing_file_is_an_error_of_the_user(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(CheckpointError, match="cannot be read: Is a directory"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(model, tmp_path, value):
    weights = dict(model.state_dict())
    weights["head.bias"] = torch.full((10,), value)
    path = tmp_path / "diverged.pth"
    torch.save(weights, path)
    with pytest.raises(CheckpointError, match=r"diverged.pth holds NaN or infinity in head.bias$"):
        load_checkpoint(path).build()


def test_a_contradicting_arch_is_refused(model, tmp_path):
    path = tmp_path / "m.pth"
    save_checkpoint(path, model, preprocess=PREPROCESS, classes=CLASSES)
    with pytest.raises(CheckpointError, match="says it is lavit_micro, --arch says lavit_s"):
        load_checkpoint(path, arch="lavit_s")
    with pytest.raises(ConfigError, match="no preset"):
        load_checkpoint(path, arch="lavit_z")


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("classes", ["a", "b"], "10 names"),
        ("preprocess", {"resize": -1}, "preprocess entry is invalid"),
        ("preprocess", {"resize": 64, "crop": [32, 32]}, "crops to"),
        ("config", {"dims": [1, 2, 3, 4]}, "config is invalid"),
    ],
)
def test_a_bad_entry_beside_the_weights_is_named(model, tmp_path, entry, value, message):
    path = tmp_path / "m.pth"
    content = {"model": model.state_dict(), "config": model.config.to_dict(), entry: value}
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


def test_saving_with_the_wrong_number_of_names_is_refused(model, tmp_path):
    with pytest.raises(CheckpointError, match="2 class names for 10 logits"):
        save_checkpoint(tmp_path / "m.pth", model, preprocess=PREPROCESS, classes=["a", "b"])
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_that_is_no_preset_is_custom():
    assert LAVIT.preset_name(dataclasses.replace(lavit_micro(), norm_eps=1e-5)) == "custom"
    assert LAVIT.preset_name(lavit_micro(image_size=128, num_classes=2)) == "lavit_micro"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_an_error_of_the_disk_not_of_the_archive():
    with pytest.raises(OSError, match="No space left on device"):
        write_pickle({"model": torch.zeros(100_000)}, Path("/dev/full"))
