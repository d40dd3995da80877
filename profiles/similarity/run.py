"""From checkpoints and a data set to a report about their attention maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from lavit_deploy import __version__
from lavit_deploy.checkpoint import Checkpoint, load_checkpoint
from lavit_deploy.common.environment import Environment, command_line
from lavit_deploy.common.errors import UsageError
from lavit_deploy.datasets import DIGITS, SUFFIXES, digit_pictures, open_data
from lavit_deploy.preprocess import Pixels, Preprocess, decode, normalise
from lavit_deploy.profiles.similarity.measures import Scored, similarity
from lavit_deploy.profiles.similarity.report import ModelSimilarity, SimilarityReport
from lavit_deploy.profiles.timing.turns import Notify
from lavit_deploy.runtimes.specs import distributions

if TYPE_CHECKING:
    from PIL import Image

BATCH = 16
"""Pictures in a call: the scores of all layers of LaViT-S take 25 MB a picture."""


@dataclass(frozen=True)
class Sample:
    """Some pictures of a data set.

    Attributes:
        source: where they came from, one phrase.
        images: as decoded, of any size.
    """

    source: str
    images: tuple[Image.Image, ...]

    def prepared(self, preprocess: Preprocess) -> Pixels:
        """The input of a model, uint8 [P, H, W, C]."""
        return np.stack([preprocess(image) for image in self.images])


def draw_sample(data: str, count: int, image_size: int) -> Sample:
    """Held-out pictures, evenly spread over the set.

    Args:
        data: what `lavit-train --data` takes, or a folder of pictures.
        count: how many at most.
        image_size: of the model, pixels.

    Raises:
        DatasetError: there is no such data.
        ImageError: a picture of a folder cannot be read.
        UsageError: a folder without a picture.
    """
    folder = Path(data)
    if folder.is_dir() and (files := _loose_pictures(folder)):
        chosen = [files[place] for place in _spread(len(files), count)]
        images = tuple(decode(path.read_bytes()) for path in chosen)
        return Sample(f"{len(images)} of {len(files)} pictures of {folder.name}", images)
    source = digit_pictures() if data == DIGITS else open_data(data, image_size)
    pictures = source.held_out
    images = tuple(pictures.image(place) for place in _spread(len(pictures), count))
    return Sample(f"{len(images)} of {len(pictures)} held-out pictures of {data}", images)


def _loose_pictures(folder: Path) -> list[Path]:
    """Pictures below a folder that is no data set to train on."""
    if any((folder / part).is_dir() for part in ("train", "val")):
        return []
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def _spread(total: int, count: int) -> list[int]:
    chosen = np.linspace(0, total - 1, min(count, total)).round().astype(int)
    return [int(place) for place in chosen]


def report(
    names: Sequence[str], data: str, pictures: int, notify: Notify = lambda _what, _share: None
) -> SimilarityReport:
    """Measure checkpoints, each beside the same model with random weights.

    Args:
        names: checkpoint files.
        data: see `draw_sample`.
        pictures: how many at most.
        notify: told what is being measured.

    Raises:
        CheckpointError: a file that cannot be used.
        UsageError: a model whose family does not give its scores.
        DatasetError: there is no such data.
    """
    checkpoints = {name: load_checkpoint(Path(name)) for name in names}
    sample = draw_sample(data, pictures, next(iter(checkpoints.values())).config.image_size[0])
    found = []
    for done, (name, checkpoint) in enumerate(checkpoints.items()):
        notify(f"measuring {name}", done / len(checkpoints))
        found.append(_compared(name, checkpoint, sample))
    notify("measured", 1.0)
    return SimilarityReport(
        project_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=tuple(command_line()),
        environment=Environment.here(distributions()),
        data=sample.source,
        pictures=len(sample.images),
        models=tuple(found),
    )


def _compared(name: str, checkpoint: Checkpoint, sample: Sample) -> ModelSimilarity:
    images = sample.prepared(checkpoint.preprocess)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # the control is the same in every run
        untrained = checkpoint.family.build(checkpoint.config).eval()
    both = []
    for model in (checkpoint.build(), untrained):
        if not hasattr(model, "forward_with_scores"):
            raise UsageError(f"{name}: {checkpoint.family.name} does not give its attention scores")
        batches = _batches(images, checkpoint.preprocess)
        both.append(similarity(cast("Scored", model), batches))
    return ModelSimilarity(label=name, trained=both[0], untrained=both[1])


def _batches(images: Pixels, preprocess: Preprocess) -> Iterator[Tensor]:
    for start in range(0, len(images), BATCH):
        yield torch.from_numpy(normalise(images[start : start + BATCH], preprocess))
