"""IDX files, the format of MNIST and of the sets that follow it: arrays with a header of sizes.

Layout (Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits"): two zero bytes,
one byte for the type, one for the number of dimensions, each size as a big-endian uint32, then the
values in C order. Files may be compressed by gzip.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from lavit_deploy.common.errors import DatasetError

_UINT8 = 0x08
_TYPES = {0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}
_MOST_DIMENSIONS = 4
_MOST_BYTES = 1 << 33
"""A header that asks for more than 8 GiB is taken for a damaged one."""

TRAINING_WORDS = ("train",)
HELD_OUT_WORDS = ("t10k", "test", "val")


class IdxSet(NamedTuple):
    """The four files of a set, read.

    Attributes:
        train: pictures to train on, uint8 [N, H, W] grey or [N, H, W, 3] RGB.
        train_labels: int64 [N], as the file numbers them.
        held_out: pictures to judge on, the same height and width.
        held_out_labels: int64 [N].
    """

    train: npt.NDArray[np.uint8]
    train_labels: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.uint8]
    held_out_labels: npt.NDArray[np.int64]


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """One file of unsigned bytes, gzip or plain.

    Raises:
        DatasetError: it cannot be read, is of another type, or is shorter or longer than its
            header says.
    """
    try:
        with path.open("rb") as plain:
            compressed = plain.read(2) == b"\x1f\x8b"
        with gzip.open(path) if compressed else path.open("rb") as file:
            return _array(cast("IO[bytes]", file), path)
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from None


def _array(file: IO[bytes], path: Path) -> npt.NDArray[np.uint8]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or not 1 <= magic[3] <= _MOST_DIMENSIONS:
        raise DatasetError(f"{path} is no IDX file: it begins with {magic.hex(' ') or 'nothing'}")
    if magic[2] != _UINT8:
        kind = _TYPES.get(magic[2], f"type 0x{magic[2]:02x}")
        raise DatasetError(f"{path} holds {kind}; pictures and labels must be unsigned bytes")
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DatasetError(f"{path} ends within its header")
    shape = struct.unpack(f">{magic[3]}I", sizes)
    wanted = math.prod(shape)
    if wanted > _MOST_BYTES:
        raise DatasetError(f"{path} is damaged: its header asks for {shape} bytes")
    content = file.read(wanted + 1)  # one more than it should have, to see that it ends there
    if len(content) != wanted:
        found = "more" if len(content) > wanted else f"{len(content):,}"
        raise DatasetError(f"{path} should hold {wanted:,} values of shape {shape}, it has {found}")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)  # [N] or [N, H, W] or [N, H, W, 3]


def idx_files(folder: Path) -> list[Path]:
    """Files of a folder that are named as IDX files are, sorted."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and "idx" in path.name and "ubyte" in path.name
    )


def read_idx_set(folder: Path) -> IdxSet:
    """The pictures and labels of a folder, by the names that MNIST and EMNIST give their files.

    "train" in a name means training; "t10k", "test" or "val" means held out. "images" and "labels"
    say which is which: `train-images-idx3-ubyte.gz`, `emnist-letters-test-labels-idx1-ubyte`.

    Raises:
        DatasetError: one of the four is missing, there are several, or they do not fit each other.
    """
    train, train_labels = _part(folder, "training", TRAINING_WORDS)
    held_out, held_out_labels = _part(folder, "held-out", HELD_OUT_WORDS)
    if train.shape[1:] != held_out.shape[1:]:
        raise DatasetError(
            f"{folder}: the training pictures are {train.shape[1:]}, the held-out ones "
            f"{held_out.shape[1:]}"
        )
    return IdxSet(train, train_labels, held_out, held_out_labels)


def _part(
    folder: Path, part: str, words: tuple[str, ...]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    images_path = _one_file(folder, part, words, "images")
    labels_path = _one_file(folder, part, words, "labels")
    images, labels = read_idx(images_path), read_idx(labels_path)
    is_grey, is_rgb = images.ndim == 3, images.ndim == 4 and images.shape[-1] == 3
    if not (is_grey or is_rgb) or 0 in images.shape:
        raise DatasetError(
            f"{images_path} holds {images.shape}; expected pictures [N, H, W] or [N, H, W, 3]"
        )
    if labels.shape != images.shape[:1]:
        raise DatasetError(
            f"{labels_path} has {labels.shape} labels for the {len(images)} pictures of "
            f"{images_path.name}"
        )
    return images, labels.astype(np.int64)


def _one_file(folder: Path, part: str, words: tuple[str, ...], what: str) -> Path:
    found = [
        path
        for path in idx_files(folder)
        if what in path.name and any(word in path.name for word in words)
    ]
    # The same file may lie there both ways, as `gunzip --keep` leaves it: then either will do.
    names = {path.name.removesuffix(".gz"): path for path in found}
    if len(names) != 1:
        named = f"{len(found)}: {', '.join(path.name for path in found)}" if found else "none"
        raise DatasetError(
            f"{folder} should have one file of {part} {what} ({' or '.join(words)}, {what}, "
            f"idx and ubyte in its name, perhaps .gz); it has {named}"
        )
    return next(iter(names.values()))
