"""Pictures to calibrate on, and others to judge on: from a folder, or scikit-learn's digits.

Noise is never used: activations of noise have other ranges than those of pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lavit_deploy.common.errors import ImageError, UsageError
from lavit_deploy.datasets import DIGITS, ArrayPictures, digit_pictures
from lavit_deploy.preprocess import Pixels, Preprocess, decode

FEW = 300
"""Below this number of calibration pictures there is a warning."""

MOST = 512
"""Calibration reads no more pictures than this; ranges hardly change after some hundreds."""

MOST_HELD_OUT = 2000
"""No more than this are judged on: all are held in memory, and run for every artifact and block."""

_HELD_OUT = 5
"""One of so many pictures of a folder is held out where no others are given to judge on."""

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LabelledPictures:
    """Preprocessed pictures, with their classes where these are known.

    Attributes:
        images: uint8 [N, H, W, 3], N >= 1.
        labels: class numbers [N]; None where they are not known.
        source: where they came from, one phrase.
        skipped: files that could not be read, with the reason.
    """

    images: Pixels
    labels: Labels | None
    source: str
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int) -> LabelledPictures:
        """At most `count` of them, evenly spread."""
        if len(self) <= count:
            return self
        chosen = np.linspace(0, len(self) - 1, count).round().astype(int)
        labels = None if self.labels is None else self.labels[chosen]
        source = f"{count} of {self.source}"
        return LabelledPictures(self.images[chosen], labels, source, self.skipped)


@dataclass(frozen=True)
class Split:
    """What int8 is made with, and what it is judged on; no picture is in both.

    Attributes:
        calibration: for the ranges of activations.
        held_out: for accuracy and agreement.
    """

    calibration: LabelledPictures
    held_out: LabelledPictures

    @property
    def warning(self) -> str:
        """What the user should know about the pictures, a sentence; empty if nothing."""
        if len(self.calibration) >= FEW:
            return ""
        return (
            f"{len(self.calibration)} calibration pictures ({self.calibration.source}): "
            f"{FEW} or more give ranges that hold for other pictures"
        )


def open_split(
    calib: str, held_out: str | None, preprocess: Preprocess, classes: Sequence[str]
) -> Split:
    """The pictures that `--calib` and `--eval` name.

    Args:
        calib: a folder, or "digits" for the training part of scikit-learn's digits.
        held_out: the same for the pictures to judge on ("digits": the held-out part). None, or the
            folder of `calib`: every fifth picture of that folder, which calibration then leaves.
        preprocess: resize and crop.
        classes: names in the order of the logits; a picture below a folder of such a name has
            that label.

    Raises:
        UsageError: a folder does not exist or has no readable picture.
        MissingDependencyError: scikit-learn is needed and not installed.
    """
    if calib == DIGITS:
        calibration = _digits(preprocess, held_out=False).first(MOST)
        return Split(calibration, open_held_out(held_out or DIGITS, preprocess, classes))
    paths = _files(Path(calib), "--calib")
    if held_out is not None and (held_out == DIGITS or not _same(held_out, calib)):
        calibration = _read(paths, Path(calib), preprocess, classes, most=MOST)
        return Split(calibration, open_held_out(held_out, preprocess, classes))
    if not paths:
        raise UsageError(f"--calib {calib} has no readable picture: the folder is empty")
    rest = [path for place, path in enumerate(paths) if place % _HELD_OUT]
    apart = paths[::_HELD_OUT]
    if not rest:
        raise UsageError(f"--calib {calib} has one file: none is left to judge on: give --eval")
    return Split(
        _read(rest, Path(calib), preprocess, classes, most=MOST),
        _read(apart, Path(calib), preprocess, classes, most=MOST_HELD_OUT),
    )


def _same(first: str, second: str) -> bool:
    return Path(first).resolve() == Path(second).resolve()


def open_held_out(name: str, preprocess: Preprocess, classes: Sequence[str]) -> LabelledPictures:
    """The pictures that `--eval` names; arguments and errors as of `open_split`."""
    if name == DIGITS:
        return _digits(preprocess, held_out=True)
    paths = _files(Path(name), "--eval")
    return _read(paths, Path(name), preprocess, classes, most=MOST_HELD_OUT)


def _digits(preprocess: Preprocess, *, held_out: bool) -> LabelledPictures:
    source = digit_pictures()
    pictures = source.held_out if held_out else source.train
    assert isinstance(pictures, ArrayPictures)  # noqa: S101 # what `digit_pictures` gives
    images = np.stack([preprocess(pictures.image(index)) for index in range(len(pictures))])
    part = "held-out" if held_out else "training"
    return LabelledPictures(
        images, np.asarray(pictures.labels), f"{len(images)} {part} digits of scikit-learn"
    )


def _files(folder: Path, option: str) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"{option}: no folder of pictures at {folder}, nor the word {DIGITS}")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _read(
    paths: Sequence[Path],
    folder: Path,
    preprocess: Preprocess,
    classes: Sequence[str],
    *,
    most: int,
) -> LabelledPictures:
    """Every readable picture; of more than `most` paths, so many, evenly spread.

    Raises:
        UsageError: none can be read.
    """
    total = len(paths)
    if total > most:
        paths = [paths[int(place)] for place in np.linspace(0, len(paths) - 1, most).round()]
    images: list[Pixels] = []
    labels: list[int] = []
    skipped: list[str] = []
    for path in paths:
        inside = path.relative_to(folder)
        try:
            images.append(preprocess(decode(path.read_bytes(), mode=preprocess.mode)))
        except (ImageError, OSError) as error:
            skipped.append(f"{inside}: {error}")
            continue
        labels.append(_label(inside, classes))
    if not images:
        raise UsageError(
            f"{folder} has no readable picture ({len(skipped)} files were tried): calibration "
            "needs real ones"
        )
    count = f"{len(images)} of {total}" if total > most else f"{len(images)}"
    known = np.asarray(labels) if min(labels) >= 0 else None
    return LabelledPictures(
        np.stack(images), known, f"{count} pictures of {folder.name}", tuple(skipped)
    )


def _label(inside: Path, classes: Sequence[str]) -> int:
    """The class whose folder a picture lies in, -1 if it lies in none."""
    return next((classes.index(part) for part in inside.parts[:-1] if part in classes), -1)
