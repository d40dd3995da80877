"""Files and folders of checkpoints: pickles, safetensors, shards, and folders of Hugging Face."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavit_deploy.common.atomic_files import sha256_of
from lavit_deploy.common.errors import CheckpointError
from lavit_deploy.weights.hugging_face import described
from lavit_deploy.weights.json_files import read_json
from lavit_deploy.weights.unpickling import StandIn, unpickle, wants_to_create

ABOUT = ("family", "config", "preprocess", "classes")
"""What a checkpoint says beside its tensors, by key; of safetensors, as JSON in the metadata."""

INDEX = ".index.json"
"""How the file ends that names the shards of a checkpoint."""

WHOLE = "model"
"""What a module is called that is all of a file."""

_SHARD = re.compile(r"-\d{5}-of-(\d{5})$")

_POINTER = b"version https://git-lfs.github.com/spec/"

_IN_FOLDERS = (
    "model.safetensors",
    f"model.safetensors{INDEX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX}",
)
"""What a folder's weights are called, in the order of preference."""


@dataclass(frozen=True)
class Content:
    """What the files of a checkpoint hold.

    Attributes:
        values: tensors by name, in dictionaries of any depth, and what `ABOUT` lists.
        files: every file that was read.
        dropped: classes and functions that a pickle asked for and that were not called.
        notes: what was read from which file, or is not kept to, as sentences.
        mixed_config: the configuration also holds what is not the model's, as `config.json` does.
    """

    values: Mapping[str, Any]
    files: tuple[Path, ...]
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    mixed_config: bool = False

    def sha256(self) -> str:
        """Hash of the file's bytes; of several, of what `sha256sum` prints of them by name."""
        if len(self.files) == 1:
            return sha256_of(self.files[0])
        lines = sorted(f"{sha256_of(file)}  {file.name}\n" for file in self.files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_content(path: Path) -> Content:
    """Read a checkpoint.

    Args:
        path: a pickle of `torch.save`, `.safetensors`, an index of shards (`.index.json`), or a
            folder with one of these and, perhaps, a `config.json`.

    Raises:
        CheckpointError: missing, not readable, damaged, or not to be had without running its code.
    """
    if path.is_dir():
        return _read_folder(path)
    try:
        path.open("rb").close()
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint at {path}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    if path.name.endswith(INDEX):
        return _read_shards(path)
    if (shard := _SHARD.search(path.stem)) and int(shard[1]) > 1:
        raise CheckpointError(
            f"{path} is one of {int(shard[1])} shards: give their folder, or their {INDEX}"
        )
    return _read_file(path)


def _read_file(path: Path) -> Content:
    with path.open("rb") as file:
        start = file.read(len(_POINTER))
    if start == _POINTER:
        raise CheckpointError(
            f"{path} is a pointer of Git LFS and holds no weights: fetch the file by `git lfs pull`"
        )
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)


def _read_pickle(path: Path) -> Content:
    read = unpickle(path)
    content = read.content
    if isinstance(content, Mapping):
        return Content(content, (path,), read.dropped)
    state = content.state if isinstance(content, StandIn) else None
    if not isinstance(state, dict):
        if read.dropped:
            raise wants_to_create(path, ", ".join(read.dropped))
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}; expected a dictionary of tensors"
        )
    return Content({WHOLE: content}, (path,), read.dropped)


def _read_safetensors(path: Path) -> Content:
    import safetensors

    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        about = {key: json.loads(metadata[key]) for key in ABOUT if key in metadata}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from None
    return Content({**tensors, **about}, (path,))


def _read_shards(index: Path) -> Content:
    """The tensors of all shards that an index names."""
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not all(_is_name(name) for name in listed.values()):
        raise CheckpointError(f"{index} is no index of shards: expected a weight_map of file names")
    tensors: dict[str, Any] = {}
    shards: list[Content] = []
    for name in sorted(set(listed.values())):
        shard = _read_shard(index.with_name(name), index)
        missing = [key for key, file in listed.items() if file == name and key not in shard.values]
        if missing:
            raise CheckpointError(
                f"{index.with_name(name)} lacks {missing[0]}, which {index} names"
            )
        tensors.update({key: shard.values[key] for key, file in listed.items() if file == name})
        shards.append(shard)
    return Content(
        tensors,
        (index, *(file for shard in shards for file in shard.files)),
        tuple(sorted({name for shard in shards for name in shard.dropped})),
    )


def _read_shard(path: Path, index: Path) -> Content:
    if not path.is_file():
        raise CheckpointError(f"{index} names {path.name}, which is not beside it")
    return _read_file(path)


def _is_name(value: object) -> bool:
    """Whether a value names a file beside another, and no other place."""
    return isinstance(value, str) and value not in {"", ".", ".."} and Path(value).name == value


def _read_folder(folder: Path) -> Content:
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}") from None
    weights = next((name for name in _IN_FOLDERS if name in names), None)
    if weights is None:
        raise CheckpointError(
            f"{folder} cannot be read: Is a directory, without any of {', '.join(_IN_FOLDERS)}"
        )
    read = read_content(folder / weights)
    about = described(folder, names)
    return Content(
        {**read.values, **about.values},
        (*read.files, *(folder / name for name in about.files)),
        read.dropped,
        (f"weights of {folder.name}/{weights}", *about.notes),
        mixed_config=True,
    )
