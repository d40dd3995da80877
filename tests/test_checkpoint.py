import dataclasses
import json
import re
import subprocess
import warnings
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lavit_deploy.checkpoint import (
    load_checkpoint,
    save_checkpoint,
    write_pickle,
)
from lavit_deploy.common.errors import CheckpointError, ConfigError, UsageError
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
        return (subprocess.call, (["echo", "this must never run"],))


def test_a_pickle_that_wants_to_run_code_is_refused_by_name(tmp_path, capfd):
    path = tmp_path / "evil.pth"
    torch.save({"model": Hostile()}, path)
    with pytest.raises(CheckpointError, match=r"wants to create \w+\.call: refused"):
        load_checkpoint(path)
    assert capfd.readouterr().out == ""


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


def renamed(model, rename):
    return {rename(key): value for key, value in model.state_dict().items()}


def shifted(model):
    """Other weights than the model's, of the same shapes."""
    return {
        key: value + 1 if value.is_floating_point() else value
        for key, value in model.state_dict().items()
    }


def fully_sharded(key):
    """As FSDP and activation checkpointing leave names: parts of wrappers on every level."""
    key = re.sub(r"(stages\.\d+)\.", r"\1._fsdp_wrapped_module.", key)
    key = re.sub(r"(blocks\.\d+)\.", r"\1._checkpoint_wrapped_module.", key)
    return f"_fsdp_wrapped_module.{key}"


@pytest.mark.parametrize(
    "rename",
    [
        lambda key: f"net._orig_mod.{key}",
        lambda key: f"some.wrapper.of.tomorrow.{key}",
        fully_sharded,
        lambda key: key if key.startswith("head") else f"backbone.{key}",
    ],
    ids=["LightningModule", "unknown", "FSDP", "backbone and head"],
)
def test_prefixes_are_found_by_the_models_own_names_and_said(model, tmp_path, rename):
    path = tmp_path / "wrapped.pth"
    torch.save({"state_dict": renamed(model, rename), "config": model.config.to_dict()}, path)
    read = load_checkpoint(path)
    assert same_tensors(read, model)
    assert read.weights == "state_dict"
    assert any("removed" in note for note in read.notes)


@pytest.mark.parametrize("key", ["module", "model_state_dict", "ema", "state_dict_ema", "a.b", ""])
def test_weights_are_found_under_any_key(model, tmp_path, key):
    path = tmp_path / "keyed.pth"
    weights = dict(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters()).state_dict()
    beside = {"optimizer": optimizer, "epoch": 3, "config": model.config.to_dict()}
    torch.save(({key: weights} if key else weights) | beside, path)
    read = load_checkpoint(path)
    assert same_tensors(read, model)
    assert read.weights == key
    assert any("averaged weights" in said for said in read.inferred) == ("ema" in key)


def test_a_model_that_was_pickled_whole_is_read_without_being_created(model, tmp_path):
    path = tmp_path / "whole.pth"
    torch.save({"model": model, "epoch": 3}, path)
    read = load_checkpoint(path)
    assert same_tensors(read, model)
    assert "lavit_deploy.model.lavit.LaViT" in read.notes[-1]


def test_several_sets_that_fit_are_chosen_from_by_their_keys(model, tmp_path):
    path = tmp_path / "two.pth"
    content = {
        "state_dict": renamed(model, lambda key: f"student.{key}")
        | {f"teacher.{key}": value for key, value in shifted(model).items()},
        "same": dict(model.state_dict()),
        "config": model.config.to_dict(),
    }
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"state_dict.student, state_dict.teacher; --weights"):
        load_checkpoint(path)
    assert same_tensors(load_checkpoint(path, weights="state_dict.student"), model)
    other = load_checkpoint(path, weights="state_dict.teacher")
    assert other.weights == "state_dict.teacher"
    assert torch.equal(other.build().head.bias, model.head.bias + 1)
    with pytest.raises(CheckpointError, match="nothing under nowhere; it has state_dict, same"):
        load_checkpoint(path, weights="nowhere")
    with pytest.raises(UsageError, match="leave out --use-ema"):
        load_checkpoint(path, weights="same", use_ema=True)


@pytest.mark.parametrize("key", ["model_ema", "ema", "state_dict_ema", "emaModel", "swa", "shadow"])
def test_averaged_weights_are_told_by_their_key(model, tmp_path, key):
    path = tmp_path / "ema.pth"
    averaged = {f"module.{name}": value for name, value in shifted(model).items()}
    content = {"net": dict(model.state_dict()), key: averaged}
    torch.save({**content, "config": model.config.to_dict()}, path)
    assert same_tensors(load_checkpoint(path), model)
    assert torch.equal(load_checkpoint(path, use_ema=True).build().head.bias, model.head.bias + 1)


def test_averaged_weights_beside_the_others_in_one_state_dict(model, tmp_path):
    path = tmp_path / "lightning.ckpt"
    averaged = {f"ema_model.module.{name}": value for name, value in shifted(model).items()}
    weights = renamed(model, lambda key: f"model.{key}")
    torch.save({"state_dict": weights | averaged, "config": model.config.to_dict()}, path)
    assert same_tensors(load_checkpoint(path), model)
    read = load_checkpoint(path, use_ema=True)
    assert read.weights == "state_dict.ema_model.module"
    assert torch.equal(read.build().head.bias, model.head.bias + 1)


def test_what_inference_does_not_read_is_neither_missing_nor_in_the_way(model, tmp_path):
    path = tmp_path / "profiled.pth"
    weights = {
        key: value
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    modules = {key.rpartition(".")[0] for key in weights}
    weights |= {f"{name}.total_ops": torch.zeros(1, dtype=torch.float64) for name in modules}
    weights |= {"total_params": torch.zeros(1, dtype=torch.float64), "step": torch.tensor(4)}
    torch.save(weights, path)
    assert same_tensors(load_checkpoint(path), model)


def test_an_unexpected_weight_is_refused_however_small(model, tmp_path):
    path = tmp_path / "scaled.pth"
    torch.save({**model.state_dict(), "stages.0.gamma": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match=r"unexpected stages.0.gamma \[1\]"):
        load_checkpoint(path)


def test_tensors_beside_the_model_are_left_out_and_said(model, tmp_path):
    path = tmp_path / "criterion.ckpt"
    weights = renamed(model, lambda key: f"model.{key}")
    content = {"state_dict": weights | {"criterion.weight": torch.ones(10)}}
    torch.save({**content, "config": model.config.to_dict()}, path)
    read = load_checkpoint(path)
    assert same_tensors(read, model)
    assert "left out beside the model: 1 tensors, such as state_dict.criterion.weight" in read.notes


def test_a_training_beside_the_weights_is_passed_over_and_said(model, tmp_path):
    path = tmp_path / "trained.pth"
    content = {
        "model": dict(model.state_dict()),
        "args": Namespace(lr=0.1, output=Path("runs")),
        "config": {"lr": 0.1, "epochs": 90, "num_classes": 10},
        "best": np.float64(0.81),
        "recipe": Hostile(),
    }
    torch.save(content, path)
    read = load_checkpoint(path)
    assert same_tensors(read, model)
    assert "config entry describes no model, and was not used: epochs, lr, num_c" in read.notes[0]
    assert "commands.call" in read.notes[-1]  # subprocess in the names of Python 2: protocol 2


@pytest.mark.parametrize("form", [Namespace, dict], ids=["Namespace", "dict"])
def test_a_configuration_is_read_whatever_holds_its_numbers(tmp_path, form):
    config = dataclasses.replace(lavit_micro(), dims=(16, 32, 48, 64), norm_eps=1e-5)
    model = LaViT(config).eval()
    values = config.to_dict() | {"image_size": 64, "norm_eps": "1e-5", "num_classes": np.int64(10)}
    path = tmp_path / "custom.pth"
    torch.save({"model": model.state_dict(), "config": form(**values)}, path)
    assert load_checkpoint(path).config == config


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (lambda value: value.to(torch.int8), "fc1.weight is int8"),
        (lambda value: value.to(torch.uint8), "fc1.weight is uint8"),
        (lambda value: value.to(torch.float8_e4m3fn), "fc1.weight is float8_e4m3fn"),
        (lambda value: value.to(torch.int64), "fc1.weight is int64"),
        (lambda value: value > 0, "fc1.weight is bool"),
        (lambda value: value.to_sparse(), r"fc1.weight is sparse \(sparse_coo\)"),
        (lambda value: value.to_sparse_csr(), r"fc1.weight is sparse \(sparse_csr\)"),
        (lambda value: value.to(torch.complex64), r"fc1.weight is complex \(complex64\)"),
        (lambda value: value.to("meta"), r"fc1.weight is without data \(meta\)"),
    ],
    ids=["int8", "uint8", "float8", "int64", "bool", "COO", "CSR", "complex", "meta"],
)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_tensors_that_are_no_weights_are_refused_in_one_line(model, tmp_path, kind, message):
    path = tmp_path / "c.pth"
    torch.save({"model": unlike(model, kind), "config": model.config.to_dict()}, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert "and 6 more are such" in str(caught.value)


def unlike(model, kind):
    """The model's tensors, those of one layer of each MLP of another kind."""
    return {
        key: kind(value) if key.endswith("fc1.weight") else value
        for key, value in model.state_dict().items()
    }


def test_they_are_refused_in_one_line_of_a_bare_state_dict_too(model, tmp_path):
    path = tmp_path / "c.pth"
    packed = unlike(model, lambda value: value.to(torch.uint8).reshape(-1, 1)[::2])  # 4 bits each
    torch.save(packed, path)
    with pytest.raises(
        CheckpointError, match=r"fc1.weight is uint8.* and 6 more are such"
    ) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_quantized_modules_are_refused_in_one_line(model, tmp_path):
    """Their tensors have other names than weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they are old
        weight = torch.quantize_per_tensor(model.head.weight.detach(), 0.1, 0, torch.qint8)
    weights = dict(model.state_dict())
    del weights["head.weight"], weights["head.bias"]
    weights |= {
        "head.scale": torch.tensor(0.1),
        "head.zero_point": torch.tensor(0),
        "head._packed_params._packed_params": (weight, model.head.bias.detach()),
    }
    path = tmp_path / "c.pth"
    torch.save(weights, path)
    with pytest.raises(CheckpointError, match=r"_packed_params.0 is quantized \(qint8\)") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precisions_are_widened_or_narrowed_to_float32(model, tmp_path, dtype):
    path = tmp_path / "c.pth"
    weights = {
        key: value.to(dtype) if value.is_floating_point() else value
        for key, value in model.state_dict().items()
    }
    torch.save(weights, path)
    built = load_checkpoint(path).build()
    assert torch.equal(built.head.weight, weights["head.weight"].float())


def test_a_size_that_shapes_do_not_tell_must_be_given(tmp_path):
    config = lavit_micro()
    path = tmp_path / "wide.pth"
    torch.save(LaViT(dataclasses.replace(config, image_size=(64, 128))).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"64 x 128 or 128 x 64 pixels: say which by --image"):
        load_checkpoint(path)
    for size in ((64, 128), (128, 64)):
        read = load_checkpoint(path, image_size=size)
        assert read.config.image_size == read.preprocess.crop == size
    with pytest.raises(CheckpointError, match="are those of 64 x 128 or 128 x 64 pixels"):
        load_checkpoint(path, image_size=(96, 96))
    with pytest.raises(CheckpointError, match="--image-size 65 x 64: stage 1 cuts"):
        load_checkpoint(path, image_size=(65, 64))


def test_a_square_of_unusual_size_is_not_taken_for_granted(tmp_path):
    path = tmp_path / "c.pth"
    torch.save(LaViT(dataclasses.replace(lavit_micro(), image_size=(64, 256))).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"128 x 128 or 64 x 256 or 256 x 64"):
        load_checkpoint(path)
    assert load_checkpoint(path, image_size=(64, 256)).config.image_size == (64, 256)


def test_the_usual_size_is_taken_and_the_others_named(model, tmp_path):
    path = tmp_path / "c.pth"
    torch.save(model.state_dict(), path)
    read = load_checkpoint(path)
    assert any("same for 32 x 128 or 128 x 32 (--image-size)" in said for said in read.inferred)
    assert load_checkpoint(path, image_size=(32, 128)).config.image_size == (32, 128)


def test_a_size_that_contradicts_the_file_is_refused(model, tmp_path):
    path = tmp_path / "m.pth"
    save_checkpoint(path, model, preprocess=PREPROCESS, classes=CLASSES)
    assert load_checkpoint(path, image_size=(64, 64)).config == model.config
    with pytest.raises(CheckpointError, match="takes 64 x 64 pixels, --image-size says 32 x 128"):
        load_checkpoint(path, image_size=(32, 128))


def test_channels_are_inferred_from_the_shapes(tmp_path):
    path = tmp_path / "grey.pth"
    torch.save(LaViT(dataclasses.replace(lavit_micro(), in_channels=1)).state_dict(), path)
    read = load_checkpoint(path)
    assert read.config.in_channels == len(read.preprocess.mean) == 1


def test_a_folder_of_hugging_face_is_a_checkpoint(model, tmp_path):
    save_file(renamed(model, lambda key: f"lavit.{key}"), tmp_path / "model.safetensors")
    about = model.config.to_dict() | {
        "architectures": ["LaViTForImageClassification"],
        "id2label": {str(index): name for index, name in enumerate(CLASSES)},
    }
    (tmp_path / "config.json").write_text(json.dumps(about))
    read = load_checkpoint(tmp_path)
    assert same_tensors(read, model)
    assert (read.config, read.classes) == (model.config, CLASSES)
    assert "not used of config.json: architectures" in read.notes


def test_a_folder_of_another_model_is_refused(tmp_path):
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "resnet", "depths": [3, 4, 6, 3]}')
    with pytest.raises(
        CheckpointError, match=r"its config is invalid: model config lacks \['dims'"
    ):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("preprocess", {"mean": [float("nan")] * 3}, "mean.0: Input should be a finite number"),
        (
            "preprocess",
            {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]},
            r"0..1 they are mean \(0.485, 0.456, 0.406\) and std \(0.229, 0.224, 0.225\)",
        ),
        ("preprocess", {"crop": [64, 64], "mean": [0.5], "std": [0.5]}, "gives 1 channels, the mo"),
        ("config", {**lavit_micro().to_dict(), "depths": None}, "depths is None; it must be 4"),
        ("config", {**lavit_micro().to_dict(), "in_channels": 12}, "in_channels is 12; pictures"),
        ("classes", "abcdefghij", "10 names, one for each logit; found a str"),
        ("classes", ["a", "b"], r"10 names, .* found 2 \(--classes FILE"),
    ],
)
def test_an_entry_that_cannot_be_is_refused_in_one_line(model, tmp_path, entry, value, message):
    path = tmp_path / "m.pth"
    content = {"model": model.state_dict(), "config": model.config.to_dict(), entry: value}
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_classes_by_their_numbers_are_put_in_order(model, tmp_path):
    path = tmp_path / "m.pth"
    named = {index: CLASSES[index] for index in reversed(range(10))}
    torch.save({"model": model.state_dict(), "classes": named}, path)
    assert load_checkpoint(path).classes == CLASSES


@pytest.mark.parametrize("entry", [["resize", 64], Hostile()], ids=["list", "object"])
def test_preprocessing_that_cannot_be_read_is_assumed_and_said(model, tmp_path, entry):
    path = tmp_path / "m.pth"
    torch.save({"model": model.state_dict(), "preprocess": entry}, path)
    read = load_checkpoint(path)
    assert any("its preprocess entry is no dictionary but a" in said for said in read.inferred)


def test_a_checkpoint_that_contains_itself_is_refused(model, tmp_path):
    path = tmp_path / "m.pth"
    content = {"model": dict(model.state_dict())}
    content |= {"a": content, "b": content, "c": content}
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="holds more than 100,000 tensors"):
        load_checkpoint(path)
