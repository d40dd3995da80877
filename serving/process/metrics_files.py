"""One scrape for several workers: what all of them counted, whichever is asked.

prometheus_client's multiprocess mode keeps counters, histograms and gauges in mapped files, one of
each for a worker; they outlive it, so that no counter ever falls. A worker that replaces another
goes on in its files.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, PlatformCollector, ProcessCollector, values
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from lavit_deploy.serving.process.worker_states import WorkerPlace, WorkerStates

_OLDEST = "process_start_time_seconds"


def count_in_files(place: WorkerPlace) -> None:
    """Have this process count in the place's files; to be called before any metric is made."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(place.metrics)  # the library reads it nowhere else
    values.ValueClass = values.MultiProcessValue(lambda: place.number)  # type: ignore[no-untyped-call]


def forget_gauges(number: int, folder: Path) -> None:
    """Let a worker that has ended no longer have anything pending or in flight."""
    mark_process_dead(number, str(folder))  # type: ignore[no-untyped-call]


def registry_of_all(place: WorkerPlace) -> CollectorRegistry:
    """What a scrape shows."""
    registry = CollectorRegistry()
    registry.register(_Counted(place.metrics))
    registry.register(_Processes(place.shared))
    registry.register(_Workers(place.shared))
    PlatformCollector(registry=registry)
    return registry


class _Counted(Collector):
    """The files' metrics, without what workers took back; see `model_metrics.take_back`."""

    def __init__(self, folder: Path) -> None:
        self._files = MultiProcessCollector(None, str(folder))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterator[Metric]:
        for metric in self._files.collect():  # type: ignore[no-untyped-call]
            metric.samples = [item for item in metric.samples if not math.isnan(item.value)]
            yield metric


class _Processes(Collector):
    """`process_*` of all processes together; the start time is the oldest one's."""

    def __init__(self, states: WorkerStates) -> None:
        self._states = states

    def collect(self) -> Iterator[Metric]:
        found: dict[str, tuple[Metric, list[float]]] = {}
        for pid in self._states.processes():
            for metric in _process(pid).collect():
                for sample in metric.samples:
                    found.setdefault(sample.name, (metric, []))[1].append(sample.value)
        for name, (metric, every) in found.items():
            metric.samples = []
            metric.add_sample(name, {}, min(every) if name == _OLDEST else sum(every))
            yield metric


def _process(pid: int) -> ProcessCollector:
    return ProcessCollector(pid=lambda: pid, registry=None)


class _Workers(Collector):
    """How many workers there are, and how often one was replaced."""

    def __init__(self, states: WorkerStates) -> None:
        self._states = states

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "lavit_workers_ready", "Workers that take requests.", self._states.ready
        )
        yield GaugeMetricFamily("lavit_workers", "Workers asked for.", self._states.workers)
        yield CounterMetricFamily(
            "lavit_worker_restarts",
            "Times that a worker ended by itself and was replaced.",
            sum(self._states.restarts),
        )
