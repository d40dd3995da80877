"""Where training pictures come from: a folder of folders, IDX files, or scikit-learn's digits.

All give upright RGB pictures through `lavit_deploy.preprocess`, so the service sees what training
saw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from lavit_deploy.common.errors import DatasetError, ImageError, MissingDependencyError
from lavit_deploy.idx_files import idx_files, read_idx_set
from lavit_deploy.preprocess import Preprocess, decode

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""Names of the files that are taken as pictures; the content decides how they are decoded."""

DIGITS = "digits"
"""What `--data` calls scikit-learn's digits."""

FASHION_MNIST = "fashion-mnist"
"""What `--data` calls Fashion-MNIST (H. Xiao, K. Rasul, R. Vollgraf, arXiv:1708.07747)."""

FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts it."""

FASHION_MNIST_CLASSES = (
    "T-shirt",
    "trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
"""What its labels 0 to 9 mean."""

CLASS_NAMES = "classes.txt"
"""File beside IDX files that names the labels 0, 1, ... one a line; without it they are numbers."""

DIGITS_HELD_OUT = 0.2
"""Share of the digits that is held out, the same for every seed of training."""


class Pictures(Protocol):
    """Labelled pictures in a fixed order; `labels` is the class number of each."""

    @property
    def labels(self) -> Sequence[int]: ...

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image:
        """The picture, RGB, of any size.

        Raises:
            DatasetError: it cannot be read; says which and why.
        """

    def fingerprint(self) -> str:
        """A hash that differs when the pictures, their order or their labels differ."""


@dataclass(frozen=True)
class DataSource:
    """Pictures to train on and pictures to validate on.

    Attributes:
        train: pictures to train on.
        held_out: pictures to validate on.
        classes: names in the order of the logits.
        preprocess: how a picture becomes the model's input when it is not augmented.
    """

    train: Pictures
    held_out: Pictures
    classes: tuple[str, ...]
    preprocess: Preprocess

    def fingerprint(self) -> str:
        """A hash that differs when anything about the pictures does."""
        parts = (*self.classes, self.train.fingerprint(), self.held_out.fingerprint())
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


class FolderPictures:
    """`root/CLASS/**/picture.jpg`, the ImageFolder layout.

    Args:
        root: folder with one folder per class.
        classes: names of the classes in the order of the logits; by default the folders' names,
            sorted.

    Raises:
        DatasetError: no folder, no class, a class without pictures, or other classes than asked
            for.
    """

    def __init__(self, root: Path, classes: tuple[str, ...] | None = None) -> None:
        if not root.is_dir():
            raise DatasetError(f"no folder at {root}; expected one folder of pictures per class")
        found = tuple(sorted(entry.name for entry in root.iterdir() if entry.is_dir()))
        if not found:
            raise DatasetError(f"{root} has no folders; expected one folder of pictures per class")
        if classes is not None and set(found) != set(classes):
            extra, missing = sorted(set(found) - set(classes)), sorted(set(classes) - set(found))
            raise DatasetError(
                f"{root} has other classes than the training pictures"
                + (f"; not trained on: {', '.join(extra)}" if extra else "")
                + (f"; missing: {', '.join(missing)}" if missing else "")
            )
        self.root = root
        self.classes = classes if classes is not None else found
        self.files: list[Path] = []
        self.labels: list[int] = []
        for label, name in enumerate(self.classes):
            files = sorted(
                path
                for path in (root / name).rglob("*")
                if path.suffix.lower() in SUFFIXES and path.is_file()
            )
            if not files:
                raise DatasetError(
                    f"{root / name} has no pictures; expected files named {', '.join(SUFFIXES)}"
                )
            self.files += files
            self.labels += [label] * len(files)

    def __len__(self) -> int:
        return len(self.files)

    def image(self, index: int) -> Image.Image:
        path = self.files[index]
        try:
            return decode(path.read_bytes())
        except (ImageError, OSError) as error:
            raise DatasetError(f"{path} cannot be read: {error}") from None

    def fingerprint(self) -> str:
        names = "\0".join(path.relative_to(self.root).as_posix() for path in self.files)
        return hashlib.sha256(names.encode()).hexdigest()


class ArrayPictures:
    """Pictures in memory.

    Args:
        pixels: uint8 [N, H, W] grey or [N, H, W, 3] RGB.
        labels: class numbers [N].
    """

    def __init__(self, pixels: npt.NDArray[np.uint8], labels: Sequence[int]) -> None:
        self.pixels = pixels
        self.labels = [int(label) for label in labels]

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index]).convert("RGB")

    def fingerprint(self) -> str:
        labels = np.asarray(self.labels, dtype=np.int64).tobytes()
        return hashlib.sha256(self.pixels.tobytes() + labels).hexdigest()


def digit_pictures() -> DataSource:
    """scikit-learn's 1797 digits, 8 x 8 grey, one fifth of each class held out.

    The split is fixed and stratified. White ink on black; the 17 grey levels are spread over
    0..255.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ModuleNotFoundError:
        raise MissingDependencyError(
            "scikit-learn", extra="train", purpose="load its digits"
        ) from None
    levels, labels = load_digits(return_X_y=True)
    # [N, 64] levels 0..16 -> [N, 8, 8] uint8 0..255
    pixels = np.rint(levels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    train, held_out = train_test_split(
        np.arange(len(labels)), test_size=DIGITS_HELD_OUT, stratify=labels, random_state=0
    )
    return DataSource(
        train=ArrayPictures(pixels[train], labels[train]),
        held_out=ArrayPictures(pixels[held_out], labels[held_out]),
        classes=tuple(str(digit) for digit in range(10)),
        preprocess=Preprocess(
            resize=64,
            crop=(64, 64),
            interpolation="bicubic",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
    )


def idx_pictures(
    folder: Path, image_size: int, classes: tuple[str, ...] | None = None
) -> DataSource:
    """An IDX set: MNIST's layout, in four files. The test pictures are the held-out ones.

    Args:
        folder: what holds the files, and perhaps `CLASS_NAMES`.
        image_size: height and width that the pictures are resized to, pixels; nothing is cropped
            from a square picture.
        classes: names of the labels 0, 1, ... in place of the file's.

    Raises:
        DatasetError: files are missing, damaged or do not fit each other.
    """
    files = read_idx_set(folder)
    labels = np.unique(files.train_labels)
    if len(labels) < 2:
        raise DatasetError(f"{folder}: all training labels are {labels[0]}; expected two classes")
    strangers = np.setdiff1d(files.held_out_labels, labels).tolist()
    if strangers:
        raise DatasetError(f"{folder}: held-out pictures have labels not trained on: {strangers}")
    names = classes or _class_names(folder)
    if names is not None and labels[-1] >= len(names):
        raise DatasetError(f"{folder}: label {labels[-1]} occurs, there are {len(names)} names")

    def pictures(pixels: npt.NDArray[np.uint8], found: npt.NDArray[np.int64]) -> ArrayPictures:
        # Labels may leave numbers out (EMNIST's letters begin at 1); logits do not.
        return ArrayPictures(pixels, np.searchsorted(labels, found).tolist())

    return DataSource(
        train=pictures(files.train, files.train_labels),
        held_out=pictures(files.held_out, files.held_out_labels),
        classes=tuple(names[label] if names else str(label) for label in labels),
        preprocess=Preprocess(
            resize=image_size,
            crop=(image_size, image_size),
            interpolation="bicubic",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
    )


def is_idx_folder(folder: Path) -> bool:
    """Whether a folder holds IDX files, and no train/ or val/ that would be meant before them."""
    parts = any((folder / part).is_dir() for part in ("train", "val"))
    return folder.is_dir() and not parts and bool(idx_files(folder))


def _class_names(folder: Path) -> tuple[str, ...] | None:
    path = folder / CLASS_NAMES
    if not path.is_file():
        return None
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from None
    if not all(names) or len(set(names)) != len(names):
        raise DatasetError(f"{path} must name every class once, one a line")
    return names


def fashion_mnist(folder: Path | None, image_size: int) -> DataSource:
    """Fashion-MNIST: 60,000 pictures of clothes to train on and 10,000 held out, 28 x 28 grey.

    Args:
        folder: what holds its four files, `FASHION_MNIST_FOLDER` where None.
        image_size: height and width that they are resized to, pixels.

    Raises:
        DatasetError: it is not there; says how to get it.
    """
    if folder is not None:
        if not folder.is_dir():
            raise DatasetError(f"no folder at {folder}; expected Fashion-MNIST's four IDX files")
        return idx_pictures(folder, image_size, FASHION_MNIST_CLASSES)
    if not FASHION_MNIST_FOLDER.is_dir():
        raise DatasetError(
            f"Fashion-MNIST is not at {FASHION_MNIST_FOLDER}: on Debian and Ubuntu, apt-get "
            "install dataset-fashion-mnist puts it there (31 MB); elsewhere give the folder with "
            f"its four IDX files: --data {FASHION_MNIST}:FOLDER"
        )
    return idx_pictures(FASHION_MNIST_FOLDER, image_size, FASHION_MNIST_CLASSES)


def open_data(name: str, image_size: int) -> DataSource:
    """The data that `--data` names.

    Args:
        name: "digits", "fashion-mnist", "fashion-mnist:FOLDER", a folder of IDX files, or a folder
            that holds train/ and val/, each with one folder per class.
        image_size: height and width of the model's input, pixels.

    Raises:
        DatasetError: there is no such data, or it is not laid out so.
        MissingDependencyError: a package that reads it is not installed.
    """
    if name == DIGITS:
        source = digit_pictures()
        size = source.preprocess.crop[0]
        if image_size != size:
            raise DatasetError(f"the digits are {size} pixels wide, the recipe says {image_size}")
        return source
    word, separator, folder = name.partition(":")
    if word == FASHION_MNIST:
        if separator and not folder:
            raise DatasetError(f"{name} names no folder; expected {FASHION_MNIST}:FOLDER")
        return fashion_mnist(Path(folder) if separator else None, image_size)
    root = Path(name)
    if not root.is_dir():
        raise DatasetError(
            f"no data at {name}; expected a folder with train/ and val/, a folder of IDX files, "
            f"or a word: {DIGITS}, {FASHION_MNIST}"
        )
    if is_idx_folder(root):
        return idx_pictures(root, image_size)
    absent = [part for part in ("train", "val") if not (root / part).is_dir()]
    if absent:
        raise DatasetError(
            f"{root} has no {' and no '.join(absent)}; expected train/CLASS/picture.jpg and "
            "val/CLASS/picture.jpg, or the four IDX files of a set like MNIST"
        )
    train = FolderPictures(root / "train")
    if len(train.classes) < 2:
        raise DatasetError(
            f"{root / 'train'} has one folder, {train.classes[0]}; expected one for each of at "
            "least two classes"
        )
    return DataSource(
        train=train,
        held_out=FolderPictures(root / "val", train.classes),
        classes=train.classes,
        preprocess=Preprocess.for_size((image_size, image_size)),
    )
