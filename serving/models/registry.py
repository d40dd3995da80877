"""The models of one service: which there are, and how they change while traffic flows.

A model is exchanged in one step of the event loop, after its successor has answered a warm-up.
Requests hold the model that they began with; it is closed when the last of them lets go.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.common.environment import available_cores
from lavit_deploy.common.errors import LavitError
from lavit_deploy.serving.decoding.pool import Decoders
from lavit_deploy.serving.errors import (
    LastModelError,
    ModelRefusedError,
    NotReadyError,
    UnknownModelError,
)
from lavit_deploy.serving.models.classifier import Classifier
from lavit_deploy.serving.models.open_models import OpenedModel, open_model
from lavit_deploy.serving.models.status import ModelStatus
from lavit_deploy.serving.settings.model_source import ModelKey, ModelSource, keys_of
from lavit_deploy.serving.settings.settings import ServiceSettings
from lavit_deploy.serving.telemetry.metrics import Metrics

_log = logging.getLogger("serving.registry")

T = TypeVar("T")


@dataclass(eq=False)
class _Served:
    """A model in service, or retired and still held by requests."""

    classifier: Classifier
    leases: int = 0
    free: asyncio.Event = field(default_factory=asyncio.Event)  # set while nobody holds it

    def __post_init__(self) -> None:
        self.free.set()

    @contextmanager
    def lease(self) -> Iterator[Classifier]:
        self.leases += 1
        self.free.clear()
        try:
            yield self.classifier
        finally:
            self.leases -= 1
            if not self.leases:
                self.free.set()

    def status(self, *, default: bool) -> ModelStatus:
        model = self.classifier.model
        return ModelStatus(
            **vars(model.id),
            default=default,
            classes=len(self.classifier.classes),
            bundle=model.source.path,
            pending=self.classifier.pending,
            unready_reason=self.classifier.unready_reason,
        )


class Registry:
    """Models by name and version; implements `lavit_deploy.serving.models.lookup.ModelLookup`.

    Args:
        models: what there is at the start, the default first; at least one. The registry closes
            them.
        settings: limits and sizes of every model.
        metrics: where times and errors are counted.
        elsewhere: why the service is not ready for a reason outside this process.

    Attributes:
        drained: after `close`, whether everything accepted was finished.

    Raises:
        UsageError: a batch size that an artifact does not take.
    """

    def __init__(
        self,
        models: Sequence[OpenedModel],
        settings: ServiceSettings,
        metrics: Metrics,
        *,
        elsewhere: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._elsewhere = elsewhere
        self._settings = settings
        self._metrics = metrics
        self.decoders = settings.decoders or available_cores()
        self._decoders = Decoders(
            workers=self.decoders,
            max_pixels=settings.max_pixels,
            seconds=settings.decode_seconds,
            isolation=settings.decoder_isolation,
        )
        self._served: dict[ModelKey, _Served] = {}
        self._changing = asyncio.Lock()
        self._starting: asyncio.Task[None] | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._stopping = False
        self.drained = True
        for model in models:
            self._put(self._classifier(model))
        metrics.watch(lambda: self.unready_reason is None)

    @property
    def unready_reason(self) -> str | None:
        """As of `ModelLookup`."""
        return self.own_unready_reason or self._elsewhere()

    @property
    def own_unready_reason(self) -> str | None:
        """Why this process should get no traffic, whatever others may do."""
        if self._stopping:
            return "the service is stopping"
        for key, served in self._served.items():
            if (reason := served.classifier.unready_reason) is not None:
                return reason if len(self._served) == 1 else f"{key}: {reason}"
        return None

    @property
    def full(self) -> bool:
        """Whether no model has a place for one more picture."""
        return all(served.classifier.full for served in self._served.values())

    @property
    def predicted_wait(self) -> float:
        """Seconds until one more picture would be answered by the model that is least busy."""
        return min(served.classifier.predicted_wait for served in self._served.values())

    @contextmanager
    def use(self, name: str | None = None, version: str | None = None) -> Iterator[Classifier]:
        """As of `ModelLookup`."""
        with self._find(name, version).lease() as classifier:
            yield classifier

    def listing(self) -> tuple[ModelStatus, ...]:
        """As of `ModelLookup`."""
        every = self._served.values()
        return tuple(served.status(default=not index) for index, served in enumerate(every))

    def start(self) -> None:
        """Warm the models up, one after the other; returns at once. Later calls do nothing."""
        if self._starting is not None:
            return
        self._starting = asyncio.create_task(self._warm_up(), name="warm-up")

    async def _warm_up(self) -> None:
        async with self._changing:
            for served in self._served.values():
                served.classifier.start()
                await served.classifier.until_ready()  # alone: its measured times are its own

    async def until_ready(self) -> None:
        """Wait for the warm-up.

        Raises:
            InferenceError: a model fails on black pictures.
        """
        if self._starting is None:
            raise RuntimeError("start() comes first")
        await asyncio.shield(self._starting)

    def stop_soon(self) -> None:
        """Report not ready from now on; pictures are still taken until `close`."""
        self._stopping = True
        for served in self._served.values():
            served.classifier.stop_soon()

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 - spans several awaits
        """Finish what was accepted, within `timeout` seconds, and free every model."""
        self._stopping = True
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        classifiers = [served.classifier for served in self._served.values()]
        await asyncio.gather(*(classifier.close(timeout) for classifier in classifiers))
        self.drained = all(classifier.drained for classifier in classifiers)
        if self._retiring:
            _, left = await asyncio.wait(self._retiring, timeout=timeout)
            for task in left:
                task.cancel()
            self.drained &= not left
        self._decoders.close()

    async def load(self, source: ModelSource, *, default: bool = False) -> ModelStatus:
        """Open a bundle, check it, warm it up, and serve it under its name and version.

        A model of the same name and version serves until then, finishes what it holds, and is
        closed.

        Args:
            source: the bundle; without a name its manifest's, without a version "1".
            default: answer requests that name no model, or no version, with it from now on.

        Raises:
            ModelRefusedError: it cannot be served; says why. Nothing has changed then.
        """
        async with self._changing:
            bundle = await self._read(source)
            key = ModelKey(source.name or bundle.manifest.name, source.version or "1")
            served = await self._load(source, bundle, key)
            if default:
                first = {key: self._served[key]}
                self._served = first | self._served
            return served.status(default=key == next(iter(self._served)))

    async def unload(self, name: str, version: str) -> None:
        """Take a model out of service; it finishes what it holds, then it is closed.

        Raises:
            UnknownModelError: there is none of that name and version.
            LastModelError: it is the only one.
        """
        async with self._changing:
            served = self._find(name, version)
            if len(self._served) == 1:
                raise LastModelError(
                    f"{ModelKey(name, version)} is the only model; load another one first"
                )
            self._remove(served)

    async def reload(self, sources: Sequence[ModelSource]) -> None:
        """Serve exactly these bundles: load what is new or has changed, unload what is gone.

        Where a manifest cannot be read, nothing changes. Otherwise each bundle is exchanged by
        itself: one that is refused leaves its predecessor in service. Where one is refused,
        nothing is unloaded.

        Args:
            sources: the default first.

        Raises:
            ModelRefusedError: some could not be loaded; says which and why.
            UsageError: two have the same name and version.
        """
        async with self._changing:
            refusals: list[str] = []
            bundles: list[tuple[ModelSource, Bundle]] = []
            for source in sources:
                try:
                    bundles.append((source, await self._read(source)))
                except ModelRefusedError as error:
                    refusals.append(str(error))
            if refusals:  # a bundle has its name from the manifest: whose successor is it?
                raise ModelRefusedError("; ".join(refusals))
            keys = keys_of((source, bundle.manifest.name) for source, bundle in bundles)
            for (source, bundle), key in zip(bundles, keys, strict=True):
                if self._is_current(key, source, bundle):
                    continue
                try:
                    await self._load(source, bundle, key)
                except ModelRefusedError as error:
                    refusals.append(str(error))
            if refusals:
                raise ModelRefusedError("; ".join(refusals))
            for gone in set(self._served) - set(keys):
                self._remove(self._served[gone])
            self._served = {key: self._served[key] for key in keys}

    def _is_current(self, key: ModelKey, source: ModelSource, bundle: Bundle) -> bool:
        served = self._served.get(key)
        if served is None:
            return False
        model = served.classifier.model
        # The manifest has the hash of every file.
        return (model.source.path, model.manifest) == (source.path, bundle.manifest)

    async def _read(self, source: ModelSource) -> Bundle:
        return await self._or_refuse(source, asyncio.to_thread(Bundle.open, source.path))

    async def _load(self, source: ModelSource, bundle: Bundle, key: ModelKey) -> _Served:
        classifier = await self._or_refuse(source, self._ready_classifier(source, bundle, key))
        served = self._put(classifier)
        _log.info("serving %s", key, extra=_facts(served))
        return served

    async def _ready_classifier(
        self, source: ModelSource, bundle: Bundle, key: ModelKey
    ) -> Classifier:
        """A classifier that has answered its warm-up; everything is closed where it fails."""
        model = await asyncio.to_thread(open_model, source, bundle, key, self._settings)
        try:
            classifier = self._classifier(model)
        except BaseException:
            model.close()
            raise
        classifier.start()
        try:
            await classifier.until_ready()
            self._check_running()
        except BaseException:
            await classifier.close(self._settings.drain_seconds)
            raise
        return classifier

    def _check_running(self) -> None:
        if self._stopping:
            raise NotReadyError("the service is stopping")

    async def _or_refuse(self, source: ModelSource, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await work
        except LavitError as error:
            _log.error("refused %s: %s", source.path, error)
            raise ModelRefusedError(f"{source.path} is refused: {error}") from error

    def _classifier(self, model: OpenedModel) -> Classifier:
        return Classifier(model, self._settings, self._metrics, self._decoders)

    def _put(self, classifier: Classifier) -> _Served:
        """Serve a model from this moment on, in place of the one with its name and version."""
        key = classifier.model.key
        old = self._served.get(key)
        self._served[key] = served = _Served(classifier)
        classifier.show()
        if old is not None:
            old.classifier.replaced(classifier)
            self._retire(old)
        return served

    def _remove(self, served: _Served) -> None:
        del self._served[served.classifier.model.key]
        served.classifier.hide()
        self._retire(served)

    def _retire(self, served: _Served) -> None:
        async def retire() -> None:
            await served.free.wait()
            await served.classifier.close(self._settings.drain_seconds)
            _log.info("closed %s", served.classifier.model.key, extra=_facts(served))

        task = asyncio.create_task(retire(), name="retire")
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    def _find(self, name: str | None, version: str | None) -> _Served:
        wanted = name or next(iter(self._served)).name
        for key, served in self._served.items():
            if key.name == wanted and version in {None, key.version}:
                return served
        asked = " ".join(str(part)[:100] for part in (name, version) if part is not None)
        there = ", ".join(str(key) for key in self._served)
        raise UnknownModelError(f"there is no model {asked!r}; there is {there}")


def _facts(served: _Served) -> dict[str, str]:
    """What a line in the log says about a model."""
    model = served.classifier.model
    return {
        "bundle": str(model.source.path),
        "artifact": model.id.artifact,
        "checkpoint": model.id.checkpoint,
    }
