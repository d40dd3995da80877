"""A bundle in Python: open what of it runs here, and classify pictures with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.bundle.open import open_artifact
from lavit_deploy.bundle.selection import Criteria, select
from lavit_deploy.common.errors import CorruptImageError, UsageError
from lavit_deploy.manifest import Device
from lavit_deploy.preprocess import Pixels, Preprocess, prepare
from lavit_deploy.runtimes.base import Runtime
from lavit_deploy.tasks.classification import ClassificationTask


class Ranked(tuple[tuple[str, float], ...]):  # noqa: SLOT001 - a tuple has no slots to add to
    """Classes of one picture: class and probability, most likely first.

    Attributes:
        unknown: whether the picture is unlike those that the model knows; None where the bundle
            has no threshold for it.
    """

    unknown: bool | None = None


def open_runtime(
    bundle: Bundle | Path | str,
    artifact: str = "auto",
    *,
    device: Device = "cpu",
    threads: int | None = None,
) -> Runtime:
    """Open an artifact of a bundle, its hash and its parity checked; close it after use.

    Args:
        bundle: the bundle, or its folder.
        artifact: by name; "auto": the fastest that is accurate enough, as `lavit-serve` takes it.
        device: where to compute.
        threads: threads within an operator; default: the cores that this process may use.

    Returns:
        A context manager whose `infer` takes uint8 [B, H, W, C] and gives float32 [B, K].

    Raises:
        BundleError: nothing in it runs here, or a file is missing or altered.
        ParityError: what could run failed parity.
        MissingDependencyError: its runtime is not installed.
    """
    bundle = _opened(bundle)
    chosen = select(bundle, Criteria(artifact=artifact, device=device)).artifact
    return open_artifact(bundle, chosen, device=device, threads=threads)


def classify(
    bundle: Bundle | Path | str,
    pictures: object,
    *,
    top_k: int = 5,
    artifact: str = "auto",
    device: Device = "cpu",
) -> Ranked | list[Ranked]:
    """Classify one picture or several, in batches.

    The artifact is opened for this call: who classifies again and again keeps an `open_runtime`.

    Args:
        bundle: the bundle, or its folder.
        pictures: one picture, or a sequence of them: each a path, a file's bytes, a picture of
            Pillow, or pixels uint8 [H, W, C], C as the model takes.
        top_k: classes to name, at least 1; fewer if the model has fewer.
        artifact: by name, or "auto".
        device: where to compute.

    Returns:
        Of one picture its classes and their probabilities, most likely first; of several a list.

    Raises:
        ImageError: a picture cannot be used.
        UsageError: `top_k` or a picture is of the wrong kind, or the model does not classify.
        BundleError: nothing in the bundle runs here.
        InferenceError: the runtime failed.
    """
    if top_k < 1:
        raise UsageError(f"top_k must be at least 1, given {top_k}")
    bundle = _opened(bundle)
    manifest = bundle.manifest
    task = bundle.task
    if not isinstance(task, ClassificationTask):
        raise UsageError(f"{bundle.path} is a model for {manifest.task}: it classifies nothing")
    several = isinstance(pictures, Sequence) and not isinstance(pictures, str | bytes)
    given = list(pictures) if several else [pictures]  # type: ignore[call-overload] # a sequence
    found: list[Ranked] = []
    with open_runtime(bundle, artifact, device=device) as runtime:
        for start in range(0, len(given), runtime.max_batch):
            batch = [
                _pixels(item, manifest.preprocess)
                for item in given[start : start + runtime.max_batch]
            ]
            for logits in runtime.infer(np.stack(batch)):  # [B, H, W, C] -> [B, K]
                task.check(logits, manifest.classes)
                result = task.read(logits, top_k)
                named = Ranked((manifest.classes[index], share) for index, share in result.classes)
                named.unknown = result.unknown
                found.append(named)
    return found if several else found[0]


def _opened(bundle: Bundle | Path | str) -> Bundle:
    return bundle if isinstance(bundle, Bundle) else Bundle.open(Path(bundle))


def _pixels(picture: object, preprocess: Preprocess) -> Pixels:
    """The model's input uint8 [H, W, C] of one picture of any kind."""
    if isinstance(picture, bytes):
        return prepare(picture, preprocess)
    if isinstance(picture, str | Path):
        try:
            return prepare(Path(picture).read_bytes(), preprocess)
        except OSError as error:
            raise UsageError(f"{picture} cannot be read: {error.strerror}") from None
    from PIL import Image

    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(_checked(picture, preprocess.shape[2]))
    if not isinstance(picture, Image.Image):
        raise UsageError(
            "a picture is a path, bytes, a picture of Pillow or pixels uint8 [H, W, C], given "
            f"{type(picture).__name__}"
        )
    try:
        return preprocess(picture)
    except (OSError, ValueError) as error:
        raise CorruptImageError(f"a picture of mode {picture.mode}: {error}") from None


def _checked(pixels: np.ndarray, channels: int) -> Pixels:
    """Pixels as Pillow takes them: grey without an axis for its one channel.

    Raises:
        UsageError: they are not uint8 [H, W, C] of the model's channels.
    """
    flat = pixels.ndim == 2 and channels == 1
    if pixels.dtype != np.uint8 or not (flat or (pixels.ndim == 3 and pixels.shape[2] == channels)):
        raise UsageError(
            f"pixels must be uint8 [H, W, {channels}], given {pixels.dtype} {list(pixels.shape)}"
        )
    return pixels[:, :, 0] if channels == 1 and not flat else pixels  # [H, W, 1] -> [H, W]
