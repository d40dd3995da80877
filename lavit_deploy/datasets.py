"""Where training pictures come from: a folder of folders, or scikit-learn's digits.

Both give upright RGB pictures through `lavit_deploy.preprocess`, so the service sees what training
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
from lavit_deploy.preprocess import Preprocess, decode

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""Names of the files that are taken as pictures; the content decides how they are decoded."""

DIGITS = "digits"
"""What `--data` calls scikit-learn's digits."""

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


def open_data(name: str, image_size: int) -> DataSource:
    """The data that `--data` names.

    Args:
        name: "digits", or a folder that holds train/ and val/, each with one folder per class.
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
    root = Path(name)
    if not root.is_dir():
        raise DatasetError(
            f"no data at {name}; expected a folder with train/ and val/, or the word {DIGITS}"
        )
    absent = [part for part in ("train", "val") if not (root / part).is_dir()]
    if absent:
        raise DatasetError(
            f"{root} has no {' and no '.join(absent)}; expected train/CLASS/picture.jpg and "
            "val/CLASS/picture.jpg"
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
