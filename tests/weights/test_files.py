"""Shards, and what is beside weights in a folder."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import save_file

from lavit_deploy.common.errors import CheckpointError
from lavit_deploy.weights.files import read_content

TENSORS = {"a.weight": torch.ones(2, 3), "b.weight": torch.zeros(4), "b.bias": torch.ones(4)}
PLACES = {
    "a.weight": "model-00001-of-00002.safetensors",
    "b.weight": "model-00002-of-00002.safetensors",
    "b.bias": "model-00002-of-00002.safetensors",
}


def write_shards(folder, index="model.safetensors.index.json", write=save_file):
    for file in set(PLACES.values()):
        write(
            {name: TENSORS[name] for name, place in PLACES.items() if place == file}, folder / file
        )
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": PLACES}))
    return folder / index


@pytest.fixture(params=["index", "folder"])
def shards(request, tmp_path):
    """The index of two shards, or their folder."""
    index = write_shards(tmp_path)
    return index if request.param == "index" else tmp_path


def test_tensors_of_all_shards_are_read(shards):
    content = read_content(shards)
    for name, tensor in TENSORS.items():
        assert content.values[name].tolist() == tensor.tolist()
    assert len(content.files) == 3


def test_the_hash_of_several_files_is_of_what_sha256sum_prints(tmp_path):
    content = read_content(write_shards(tmp_path))
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in content.files
    ]
    assert content.sha256() == hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
    first = content.sha256()
    write_shards(tmp_path)
    assert read_content(tmp_path).sha256() == first
    save_file({"a.weight": torch.zeros(2, 3)}, tmp_path / PLACES["a.weight"])
    assert read_content(tmp_path).sha256() != first


def test_a_shard_alone_is_refused_by_its_name(tmp_path):
    write_shards(tmp_path)
    with pytest.raises(CheckpointError, match="is one of 2 shards: give their folder"):
        read_content(tmp_path / PLACES["a.weight"])


def test_pickled_shards_are_read_too(tmp_path):
    names = {"a.weight": "pytorch_model-00001-of-00002.bin"} | dict.fromkeys(
        ("b.weight", "b.bias"), "pytorch_model-00002-of-00002.bin"
    )
    for file in set(names.values()):
        torch.save({name: TENSORS[name] for name in names if names[name] == file}, tmp_path / file)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    assert set(TENSORS) <= set(read_content(tmp_path).values)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "holds a list, expected an object"),
        ("{}", "is no index of shards"),
        ('{"weight_map": {"a": "../secret.safetensors"}}', "is no index of shards"),
        ('{"weight_map": {"a": 3}}', "is no index of shards"),
        ('{"weight_map": {"a": "absent.safetensors"}}', "names absent.safetensors, which is not"),
        ('{"weight_map": {"a": "one.safetensors"}}', "lacks a, which"),
    ],
)
def test_an_index_that_cannot_be_followed_is_named(tmp_path, index, message):
    save_file({"b": torch.ones(1)}, tmp_path / "one.safetensors")
    (tmp_path / "m.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=message):
        read_content(tmp_path / "m.index.json")


def test_a_folder_without_weights_lists_what_it_could_hold(tmp_path):
    with pytest.raises(CheckpointError, match=r"Is a directory, without any of model.safetensors"):
        read_content(tmp_path)


@pytest.mark.parametrize("name", ["m.pth", "model.safetensors"])
def test_a_pointer_of_git_lfs_is_told_from_weights(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(CheckpointError, match=r"is a pointer of Git LFS .* `git lfs pull`"):
        read_content(tmp_path / name)
