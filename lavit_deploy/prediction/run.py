"""From a source of pictures to records: decoded in processes, classified in batches, in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.bundle.open import open_artifact
from lavit_deploy.bundle.selection import Criteria, select
from lavit_deploy.common.errors import InferenceError, UsageError
from lavit_deploy.manifest import Device
from lavit_deploy.prediction.decoding import Decoded, Decoders
from lavit_deploy.prediction.features import FeatureModel, feature_artifact
from lavit_deploy.prediction.journal import Record
from lavit_deploy.prediction.sources import Item
from lavit_deploy.preprocess import MAX_PIXELS, Pixels
from lavit_deploy.runtimes.base import Logits, Runtime
from lavit_deploy.tasks.classification import ClassificationTask


@dataclass(frozen=True, kw_only=True)
class Options:
    """How pictures are predicted and what is kept.

    Attributes:
        artifact: by name; "auto": the fastest that is accurate enough.
        device: where to compute.
        threads: of the runtime; None: all cores.
        batch: pictures in a call; None: what the artifact was optimised for.
        decoders: decoding processes; 0: none but this one.
        top_k: classes to name.
        logits: keep the logits.
        features: keep the vector that the last layer reads.
        max_pixels: the largest picture that is decoded.
    """

    artifact: str = "auto"
    device: Device = "cpu"
    threads: int | None = None
    batch: int | None = None
    decoders: int = 0
    top_k: int = 5
    logits: bool = False
    features: bool = False
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        for name, least in (("top_k", 1), ("batch", 1), ("threads", 1), ("decoders", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(
                    f"--{name.replace('_', '-')} must be {least} or more, given {value}"
                )


class _Model(Protocol):
    """Gives logits [B, K], and features [B, D] if asked for, of uint8 [B, H, W, C]."""

    def __call__(self, images: Pixels) -> tuple[Logits, Logits | None]: ...


class Predictor(AbstractContextManager["Predictor"]):
    """A bundle's model and its decoders; a context manager.

    Args:
        bundle: the bundle, opened.
        options: how.

    Attributes:
        artifact: name of the artifact that runs.
        batch: pictures in a call.

    Raises:
        UsageError: a batch that the artifact does not take, or a model of another task.
        BundleError: nothing in the bundle runs here.
        MissingDependencyError: a package is not installed.
    """

    def __init__(self, bundle: Bundle, options: Options) -> None:
        self._manifest = bundle.manifest
        if not isinstance(bundle.task, ClassificationTask):
            raise UsageError(
                f"{bundle.path} is a model for {bundle.manifest.task}: it classifies nothing"
            )
        self._task = bundle.task
        self._options = options
        with ExitStack() as undo:
            artifact, self._model = _open(bundle, options, undo)
            self.artifact = artifact
            entry = bundle.artifact(artifact)
            self.batch = _batch(options.batch, entry.batch.optimum, entry.batch.maximum, artifact)
            self._decoders = undo.enter_context(
                Decoders(self._manifest.preprocess, options.decoders, options.max_pixels)
            )
            self._undo = undo.pop_all()

    def records(self, items: Iterable[Item]) -> Iterator[list[Record]]:
        """Records of pictures, a batch at a time, in their order."""
        for batch in self._decoders.batches(items, self.batch):
            yield self._classified(batch)

    def _classified(self, batch: list[Decoded]) -> list[Record]:
        usable = [decoded.pixels for decoded in batch if decoded.pixels is not None]
        outputs = self._outputs(np.stack(usable)) if usable else iter(())
        return [
            self._record(decoded, None if decoded.pixels is None else next(outputs))
            for decoded in batch
        ]

    def _outputs(self, images: Pixels) -> Iterator[tuple[Logits, Logits | None]]:
        """Logits [K] and features [D] of each picture of uint8 [B, H, W, C]."""
        logits, features = self._model(images)
        for row, values in enumerate(logits):
            yield values, None if features is None else features[row]

    def _record(self, decoded: Decoded, output: tuple[Logits, Logits | None] | None) -> Record:
        record: Record = {"picture": decoded.item.name}
        label = self._label(decoded.item.label)
        if label is not None:
            record["label"] = label
        if output is None:
            return record | {"status": "error", "error": decoded.error}
        logits, features = output
        try:
            self._task.check(logits, self._manifest.classes)
        except InferenceError as error:
            return record | {"status": "error", "error": str(error)}
        result = self._task.read(logits, self._options.top_k)
        answer = self._task.answer(result, self._manifest.classes).model_dump(mode="json")
        if result.unknown is None:
            del answer["unknown"]
        record |= {"status": "ok", **answer}
        if self._options.logits:
            record["logits"] = logits.tolist()
        if features is not None:
            record["features"] = features.tolist()
        return record

    def _label(self, label: str | int | None) -> str | None:
        """A label's name; a number is a place in the model's order."""
        if isinstance(label, int) and 0 <= label < len(self._manifest.classes):
            return self._manifest.classes[label]
        return None if label is None else str(label)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()


def _open(bundle: Bundle, options: Options, undo: ExitStack) -> tuple[str, _Model]:
    if options.features:
        if options.device != "cpu":
            raise UsageError("features are read on the CPU: leave --device out")
        artifact = feature_artifact(bundle, options.artifact)
        return artifact.name, FeatureModel(bundle, artifact, options.threads)
    chosen = select(bundle, Criteria(options.artifact, device=options.device)).artifact
    runtime = undo.enter_context(
        open_artifact(bundle, chosen, device=options.device, threads=options.threads)
    )
    return chosen.name, _Logits(runtime)


class _Logits:
    """A runtime that gives no features."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def __call__(self, images: Pixels) -> tuple[Logits, None]:
        return self._runtime.infer(images), None


def _batch(asked: int | None, optimum: int, most: int, artifact: str) -> int:
    size = optimum if asked is None else asked
    if size > most:
        raise UsageError(f"--batch may be at most {most} for {artifact}, given {size}")
    return size
