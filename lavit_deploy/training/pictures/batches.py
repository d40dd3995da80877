"""Pictures into batches of uint8, in loader processes or in this one."""

from __future__ import annotations

import math
import os
import random
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lavit_deploy.common.errors import DatasetError
from lavit_deploy.datasets import Pictures
from lavit_deploy.preprocess import Preprocess
from lavit_deploy.training.pictures.sampling import SampledPicture

Pixels = npt.NDArray[np.uint8]

_ASPECT = (3 / 4, 4 / 3)
_CROP_ATTEMPTS = 10


class Batch(NamedTuple):
    """Pictures and what they show.

    Attributes:
        pixels: uint8 [B, H, W, 3].
        labels: int64 [B].
    """

    pixels: Tensor
    labels: Tensor


class _Sample(NamedTuple):
    pixels: Pixels
    label: int


class _Unreadable(NamedTuple):
    reason: str


class TrainingView(Dataset["_Sample | _Unreadable"]):
    """Pictures as training sees them, cropped at random unless `crop_scale` is (1, 1)."""

    def __init__(
        self, pictures: Pictures, preprocess: Preprocess, crop_scale: tuple[float, float]
    ) -> None:
        self.pictures = pictures
        self.preprocess = preprocess
        self.crop_scale = crop_scale

    def __getitem__(self, sample: SampledPicture) -> _Sample | _Unreadable:
        try:
            image = self.pictures.image(sample.picture)
        except DatasetError as error:
            # An exception would arrive from a loader process as a traceback in a string.
            return _Unreadable(str(error))
        if self.crop_scale == (1.0, 1.0):
            pixels = self.preprocess(image)
        else:
            pixels = random_crop(image, self.preprocess, self.crop_scale, sample.seed)
        return _Sample(pixels, self.pictures.labels[sample.picture])


class EvaluationView(Dataset["_Sample | _Unreadable"]):
    """Pictures as evaluation and the service see them."""

    def __init__(self, pictures: Pictures, preprocess: Preprocess) -> None:
        self.pictures = pictures
        self.preprocess = preprocess

    def __getitem__(self, index: int) -> _Sample | _Unreadable:
        try:
            image = self.pictures.image(index)
        except DatasetError as error:
            return _Unreadable(str(error))
        return _Sample(self.preprocess(image), self.pictures.labels[index])


def random_crop(
    image: Image.Image, preprocess: Preprocess, scale: tuple[float, float], seed: int
) -> Pixels:
    """A random part of the picture, resized to the model's input (C. Szegedy et al., 2015).

    Done by Pillow on the whole picture, with the filter that evaluation uses: tensors would need
    one size first, and their resizing does not filter when it shrinks.

    Args:
        image: RGB.
        preprocess: gives the size and the filter.
        scale: range of the part's area as a share of the picture's.
        seed: of this crop.

    Returns:
        uint8 [H, W, 3].
    """
    chance = random.Random(seed)
    box = _crop_box(image.size, scale, chance)
    height, width = preprocess.crop
    resampling = Image.Resampling[preprocess.interpolation.upper()]
    resized = image.resize((width, height), resampling, box=box)
    return np.asarray(resized, dtype=np.uint8)


def _crop_box(
    size: tuple[int, int], scale: tuple[float, float], chance: random.Random
) -> tuple[int, int, int, int]:
    """Left, top, right, bottom; the largest centred box when ten attempts do not fit."""
    width, height = size
    for _ in range(_CROP_ATTEMPTS):
        area = width * height * chance.uniform(*scale)
        aspect = math.exp(chance.uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1])))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            left = chance.randint(0, width - box_width)
            top = chance.randint(0, height - box_height)
            return left, top, left + box_width, top + box_height
    box_width = min(width, max(1, round(height * _ASPECT[1])))
    box_height = min(height, max(1, round(width / _ASPECT[0])))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height


def training_batches(
    view: TrainingView, batches: list[list[SampledPicture]], workers: int
) -> Iterator[Batch]:
    """Load the batches in order.

    Raises:
        DatasetError: pictures that cannot be read; names them.
    """
    return _load(view, batches, workers)


def evaluation_batches(
    view: EvaluationView, batches: list[list[int]], workers: int
) -> Iterator[Batch]:
    """Load the batches in order.

    Raises:
        DatasetError: pictures that cannot be read; names them.
    """
    return _load(view, batches, workers)


def _load(
    view: Dataset[_Sample | _Unreadable],
    batches: Sequence[Sequence[SampledPicture]] | Sequence[Sequence[int]],
    workers: int,
) -> Iterator[Batch]:
    loader: DataLoader[_Sample | _Unreadable] = DataLoader(
        view,
        batch_sampler=batches,  # type: ignore[arg-type] # samples are indices to our data sets
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_leave_signals_to_the_parent if workers else None,
        generator=torch.Generator(),  # the loader's own draws must not move the global one
    )
    # Loader processes begin with SIGTERM blocked: there is no moment in which it would end them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        loaded = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    for batch in loaded:
        if isinstance(batch, list):
            raise DatasetError("\n".join(batch))
        yield Batch(*batch)


def _leave_signals_to_the_parent(worker: int) -> None:  # noqa: ARG001 - DataLoader gives it
    """Ctrl-C goes to the whole process group, and so does SIGTERM from systemd or Slurm.

    The parent finishes its step and ends the loaders, by SIGTERM where they do not listen: that
    signal counts when it is the parent's.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # macOS does not tell who sent a signal
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        return
    threading.Thread(target=_end_when_the_parent_says, args=(os.getppid(),), daemon=True).start()


def _end_when_the_parent_says(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _collate(samples: list[_Sample | _Unreadable]) -> tuple[Tensor, Tensor] | list[str]:
    """uint8 [B, H, W, 3] and int64 [B]; the reasons instead when there are unreadable pictures."""
    reasons = [sample.reason for sample in samples if isinstance(sample, _Unreadable)]
    if reasons:
        return reasons
    good = [sample for sample in samples if isinstance(sample, _Sample)]
    pixels = torch.from_numpy(np.stack([sample.pixels for sample in good]))
    return pixels, torch.tensor([sample.label for sample in good])
