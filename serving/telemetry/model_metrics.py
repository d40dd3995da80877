"""What is counted about each model, under its name and version."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_LABELS = ("model", "version")
_Together = Literal["livesum", "livemin", "livemax"]
"""How the gauges of several processes become one; of those that are alive."""
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class Gauges:
    """What is read from a model whenever the metrics are.

    Attributes:
        depth: decoded pictures waiting for the runtime.
        pending: pictures accepted and not yet answered.
        predicted_wait: seconds until one more picture would be answered.
        instances: instances of the runtime that take batches.
        ready: whether the model takes pictures.
    """

    depth: Callable[[], float]
    pending: Callable[[], float]
    predicted_wait: Callable[[], float]
    instances: Callable[[], float]
    ready: Callable[[], float]


class AllModels:
    """The metrics of every model, in one registry.

    Args:
        registry: where they are shown.
        removable: a gauge can be removed; not where several processes count together.
    """

    def __init__(self, registry: CollectorRegistry, *, removable: bool = True) -> None:
        self._removable = removable
        self._read: dict[tuple[Gauge, tuple[str, ...]], Callable[[], float]] = {}

        def gauge(name: str, description: str, *more: str, workers: _Together = "livesum") -> Gauge:
            return Gauge(
                f"lavit_{name}",
                description,
                (*_LABELS, *more),
                registry=registry,
                multiprocess_mode=workers,
            )

        def seconds(stage: str, description: str) -> Histogram:
            name = f"lavit_{stage}_seconds"
            return Histogram(name, description, _LABELS, buckets=_SECONDS, registry=registry)

        self.batch_size = Histogram(
            "lavit_batch_size",
            "Pictures in a batch.",
            _LABELS,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=registry,
        )
        self.infer_seconds = seconds("infer", "Time of a batch in the runtime.")
        self.decode_seconds = seconds("decode", "Decoding, resizing, cropping a picture.")
        self.queue_seconds = seconds("queue", "Time a picture waited in queues.")
        self.restarts = Counter(
            "lavit_runtime_restarts",
            "Times that a broken runtime was opened again, by outcome.",
            (*_LABELS, "outcome"),
            registry=registry,
        )
        self.depth = gauge("queue_depth", "Decoded pictures waiting for the runtime.")
        self.pending = gauge("pictures_pending", "Pictures accepted and not yet answered.")
        self.predicted_wait = gauge(
            "predicted_wait_seconds",
            "Time until one more picture would be answered.",
            workers="livemax",
        )
        self.instances = gauge("runtime_instances", "Instances of the runtime that take batches.")
        self.ready = gauge(
            "model_ready", "1 while the model takes pictures, else 0.", workers="livemin"
        )
        self.info = gauge(
            "model_info",
            "What is served, always 1.",
            *("artifact", "checkpoint", "runtime"),
            workers="livemax",
        )

    def of(self, name: str, version: str) -> ModelMetrics:
        """Those of one model."""
        return ModelMetrics(self, name, version)

    def watch(self, gauge: Gauge, labels: tuple[str, ...], read: Callable[[], float]) -> None:
        """Read this with every `refresh`."""
        self._read[gauge, labels] = read

    def refresh(self) -> None:
        """Read every gauge anew."""
        for (gauge, labels), read in self._read.items():
            gauge.labels(*labels).set(read())

    def take_back(self, gauge: Gauge, labels: tuple[str, ...]) -> None:
        """Show a gauge no more; in files that processes share, by a number that is none."""
        self._read.pop((gauge, labels), None)
        if self._removable:
            with suppress(KeyError):  # it was never shown
                gauge.remove(*labels)
        else:
            gauge.labels(*labels).set(math.nan)


class ModelMetrics:
    """The metrics of one name and version, whichever bundle stands behind them.

    Args:
        every: all models'.
        name: the model's name.
        version: its version.
    """

    def __init__(self, every: AllModels, name: str, version: str) -> None:
        self._every = every
        self._labels = labels = (name, version)
        self._batch_size = every.batch_size.labels(*labels)
        self._infer_seconds = every.infer_seconds.labels(*labels)
        self._decode_seconds = every.decode_seconds.labels(*labels)
        self._queue_seconds = every.queue_seconds.labels(*labels)
        for outcome in ("ok", "failed"):  # shown before the first one, which Prometheus would miss
            every.restarts.labels(*labels, outcome)
        self._described: tuple[str, ...] | None = None

    def batch(self, size: int, seconds: float) -> None:
        """Count a batch and its time in the runtime."""
        self._batch_size.observe(size)
        self._infer_seconds.observe(seconds)

    def picture(self, *, decode_seconds: float, queue_seconds: float) -> None:
        """Count a classified picture's times."""
        self._decode_seconds.observe(decode_seconds)
        self._queue_seconds.observe(queue_seconds)

    def restarted(self, success: bool) -> None:  # noqa: FBT001 - a callback's only argument
        """Count an attempt to open a broken runtime again."""
        self._every.restarts.labels(*self._labels, "ok" if success else "failed").inc()

    def show(self, gauges: Gauges, *, artifact: str, checkpoint: str, runtime: str) -> None:
        """Begin to show a model, in place of the one that was shown before it."""
        every = self._every
        for gauge, read in (
            (every.depth, gauges.depth),
            (every.pending, gauges.pending),
            (every.predicted_wait, gauges.predicted_wait),
            (every.instances, gauges.instances),
            (every.ready, gauges.ready),
        ):
            every.watch(gauge, self._labels, read)
        self._described = (*self._labels, artifact, checkpoint, runtime)
        every.info.labels(*self._described).set(1)

    def replaced(self, by: ModelMetrics) -> None:
        """Leave the names to another bundle, which is shown already."""
        if self._described is not None and self._described != by._described:
            self._every.take_back(self._every.info, self._described)

    def hide(self) -> None:
        """Show nothing of this model any more; what was counted stays."""
        every = self._every
        for gauge in (
            every.depth,
            every.pending,
            every.predicted_wait,
            every.instances,
            every.ready,
        ):
            every.take_back(gauge, self._labels)
        if self._described is not None:
            every.take_back(every.info, self._described)
