"""One model behind the service: pictures in, classes out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from lavit_deploy.common.errors import LavitError, UsageError
from lavit_deploy.preprocess import Pixels
from lavit_deploy.serving.batching.batcher import Batcher, BatchLimits
from lavit_deploy.serving.batching.padding import PaddedSizes
from lavit_deploy.serving.batching.picture_queue import Inferred, Reservation
from lavit_deploy.serving.decoding.pool import Decoded, Decoders
from lavit_deploy.serving.errors import (
    NotReadyError,
    UnexpectedError,
    WrongTaskError,
    kind_of,
    shortage,
)
from lavit_deploy.serving.models.open_models import OpenedModel
from lavit_deploy.serving.settings.settings import ServiceSettings
from lavit_deploy.serving.telemetry.metrics import Metrics
from lavit_deploy.serving.telemetry.model_metrics import Gauges
from lavit_deploy.serving.telemetry.timeline import DECODE, INFER, QUEUE, PictureTimeline, Timeline
from lavit_deploy.tasks.classification import ClassificationTask, Ranking

_log = logging.getLogger("serving.classifier")


@dataclass(frozen=True, slots=True)
class Ranked:
    """What a model says about one picture, and where its time went.

    Attributes:
        ranking: its classes, and whether it is unknown.
        decode_seconds: decoding, resizing and cropping.
        queue_seconds: waiting for a decoder and for the runtime.
        infer_seconds: its batch in the runtime.
        batch: pictures in that batch.
    """

    ranking: Ranking
    decode_seconds: float
    queue_seconds: float
    infer_seconds: float
    batch: int


class Classifier:
    """Decodes, batches and classifies pictures with one model.

    Args:
        model: the model; the classifier closes its runtimes.
        settings: limits and sizes.
        metrics: where times and errors are counted.
        decoders: decode pictures for this model and others; not closed here.

    Attributes:
        drained: after `close`, whether everything accepted was finished.

    Raises:
        UsageError: a batch size that the artifact does not take.
    """

    def __init__(
        self, model: OpenedModel, settings: ServiceSettings, metrics: Metrics, decoders: Decoders
    ) -> None:
        self.model = model
        self.classes = model.manifest.classes
        self.max_batch = _batch_size(model, settings.max_batch)
        self._errors = metrics
        self._metrics = metrics.of(*model.key)
        self._batcher = Batcher(
            model.runtimes,
            BatchLimits(
                sizes=PaddedSizes.measured(
                    model.artifact.batch.minimum,
                    self.max_batch,
                    model.artifact.timings,
                    settings.instance_threads,
                ),
                max_wait=settings.max_wait_ms / 1e3,
                capacity=settings.queue,
                infer_seconds=settings.infer_seconds,
            ),
            reopen=model.reopen,
            on_batch=self._metrics.batch,
            on_restart=self._metrics.restarted,
        )
        self._decoders = decoders
        self._warm_up: asyncio.Task[None] | None = None
        self._stopping = False
        self.drained = True

    @property
    def pending(self) -> int:
        """Pictures accepted and not yet answered."""
        return self._batcher.accepted

    @property
    def full(self) -> bool:
        """Whether there is no place for one more picture."""
        return self._batcher.full

    @property
    def predicted_wait(self) -> float:
        """Seconds until one more picture would be answered."""
        return self._batcher.predicted_wait()

    def show(self) -> None:
        """Let the metrics show this model under its name and version."""
        gauges = Gauges(
            depth=lambda: self._batcher.depth,
            pending=lambda: self._batcher.accepted,
            predicted_wait=self._batcher.predicted_wait,
            instances=lambda: self._batcher.working,
            ready=lambda: self.unready_reason is None,
        )
        model = self.model.id
        self._metrics.show(
            gauges,
            artifact=model.artifact,
            checkpoint=model.checkpoint,
            runtime=self.model.artifact.runtime,
        )

    def replaced(self, by: Classifier) -> None:
        """Leave the metrics' name and version to a successor that they show already."""
        self._metrics.replaced(by._metrics)

    def hide(self) -> None:
        """Let the metrics show this model no more."""
        self._metrics.hide()

    @property
    def unready_reason(self) -> str | None:
        """Why no traffic should be sent here; None while the model is ready."""
        if self._stopping:
            return "the service is stopping"
        if self._warm_up is None or not self._warm_up.done():
            return "the model is warming up"
        if self._warm_up.cancelled() or self._warm_up.exception() is not None:
            return "the model failed its warm-up"
        return self._batcher.fault

    def start(self) -> None:
        """Warm the model up, then take pictures; returns at once."""
        self._warm_up = asyncio.create_task(self._make_ready(), name="warm-up")

    async def _make_ready(self) -> None:
        await self._batcher.warm_up()
        self._batcher.start()

    async def until_ready(self) -> None:
        """Wait for the warm-up.

        Raises:
            InferenceError: the model fails on black pictures.
        """
        if self._warm_up is None:
            raise RuntimeError("start() comes first")
        await asyncio.shield(self._warm_up)

    def stop_soon(self) -> None:
        """Report not ready from now on; pictures are still taken until `close`."""
        self._stopping = True

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 - spans several awaits
        """Finish what was accepted, within `timeout` seconds, and free the model."""
        self._stopping = True
        if self._warm_up is not None:
            self._warm_up.cancel()
            await asyncio.gather(self._warm_up, return_exceptions=True)
        self.drained = await self._batcher.close(timeout)

    async def classify(
        self, pictures: Sequence[bytes], top_k: int, deadline: float | None = None
    ) -> list[Ranked | LavitError]:
        """Classify some pictures together.

        Args:
            pictures: at least one, encoded.
            top_k: classes to answer with, 1..K.
            deadline: when they must be answered, on the event loop's clock; None: whenever.

        Returns:
            For each picture in order, its classes, or why there are none; a failed one does not
            hold the others up, and is counted among the errors.

        Raises:
            WrongTaskError: the model does something else than to classify.
            NotReadyError: warming up or stopping.
            OverloadedError: no room for that many pictures.
            PredictedWaitError: they would not be answered before the deadline.
        """
        self._check_warm()
        task = self.model.task
        if not isinstance(task, ClassificationTask):
            raise WrongTaskError(f"{self.model.key} is a model for {self.model.manifest.task}")
        with self._batcher.reserve(len(pictures), deadline) as reservation:
            if len(pictures) == 1:  # most requests: a task of its own would cost more than it does
                return [await self._classify(task, pictures[0], top_k, reservation)]
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._classify(task, picture, top_k, reservation))
                    for picture in pictures
                ]
        return [task.result() for task in tasks]

    async def infer(
        self, pictures: Sequence[bytes | Pixels], deadline: float | None = None
    ) -> list[Inferred | LavitError]:
        """Logits of some pictures, encoded or as uint8 [H, W, C] of the model's size.

        Args:
            pictures: at least one.
            deadline: when they must be answered, on the event loop's clock; None: whenever.

        Returns:
            For each picture in order, its finite logits, or why there are none.

        Raises:
            NotReadyError: warming up or stopping.
            OverloadedError: no room for that many pictures.
            PredictedWaitError: they would not be answered before the deadline.
        """
        self._check_warm()
        with self._batcher.reserve(len(pictures), deadline) as reservation:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._infer(item, reservation)) for item in pictures]
        return [task.result() for task in tasks]

    async def _infer(
        self, picture: bytes | Pixels, reservation: Reservation
    ) -> Inferred | LavitError:
        stages = Timeline.current().picture()
        try:
            decode_seconds = 0.0
            if isinstance(picture, bytes):
                decoded = await self._decode(picture, reservation, stages)
                picture, decode_seconds = decoded.pixels, decoded.decode_seconds
            inferred = await _infer(picture, reservation, stages)
            self.model.task.check(inferred.logits, self.classes)
        except Exception as error:  # noqa: BLE001 - costs this picture, not the service
            return self._failed(error)
        self._metrics.picture(decode_seconds=decode_seconds, queue_seconds=inferred.queue_seconds)
        return inferred

    def _check_warm(self) -> None:
        if self._warm_up is None or not self._warm_up.done():
            raise NotReadyError("the model is warming up")

    async def _classify(
        self, task: ClassificationTask, picture: bytes, top_k: int, reservation: Reservation
    ) -> Ranked | LavitError:
        stages = Timeline.current().picture()
        try:
            decoded = await self._decode(picture, reservation, stages)
            inferred = await _infer(decoded.pixels, reservation, stages)
            task.check(inferred.logits, self.classes)
            ranking = task.read(inferred.logits, top_k)
        except Exception as error:  # noqa: BLE001 - costs this picture, not the others
            return self._failed(error)
        decode_seconds = decoded.decode_seconds
        queue_seconds = decoded.wait_seconds + inferred.queue_seconds
        self._metrics.picture(decode_seconds=decode_seconds, queue_seconds=queue_seconds)
        return Ranked(
            ranking, decode_seconds, queue_seconds, inferred.infer_seconds, inferred.batch
        )

    async def _decode(
        self, picture: bytes, reservation: Reservation, stages: PictureTimeline
    ) -> Decoded:
        with stages.stage(DECODE) as stage:
            try:
                decoded = await self._decoders.decode(picture, self.model.manifest.preprocess)
            except Exception:
                reservation.cancel_one()
                raise
            stage.was(QUEUE, decoded.wait_seconds)
            stage.was(DECODE, decoded.decode_seconds)
        return decoded

    def _failed(self, error: Exception) -> LavitError:
        """Count why a picture was not classified; a fault of ours is told to the log alone."""
        if not isinstance(error, LavitError):
            error = _explained(error)
        self._errors.error(kind_of(error))
        return error


def _explained(error: Exception) -> LavitError:
    """What a client is told of a fault; the log has the rest, with the request's id."""
    if (known := shortage(error)) is not None:
        _log.error("a picture was not classified: %s", known)
        return known
    _log.error("unexpected while classifying a picture", exc_info=error)
    return UnexpectedError("the service failed on this picture; the log says why")


async def _infer(pixels: Pixels, reservation: Reservation, stages: PictureTimeline) -> Inferred:
    """Logits of a decoded picture, uint8 [H, W, C], with its stages in the request's timeline."""
    with stages.stage(QUEUE) as stage:
        inferred = await reservation.infer(pixels)
        stage.was(QUEUE, inferred.queue_seconds)
        stage.was(INFER, inferred.infer_seconds, inferred.batch)
    return inferred


def _batch_size(model: OpenedModel, asked: int | None) -> int:
    """Largest batch to run: what was asked for, or what the artifact was optimised for."""
    batch = model.artifact.batch
    size = batch.optimum if asked is None else asked
    if not batch.minimum <= size <= batch.maximum:
        raise UsageError(
            f"--max-batch must be {batch.minimum}..{batch.maximum} for {model.artifact.name}, "
            f"given {size}"
        )
    return size
