"""Prometheus metrics, in a registry of their own."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder

from lavit_deploy import __version__
from lavit_deploy.common.errors import InferenceError
from lavit_deploy.serving.errors import (
    DeadlineError,
    NotReadyError,
    OverloadedError,
    PredictedWaitError,
    UnexpectedError,
    kind_of,
)
from lavit_deploy.serving.telemetry.model_metrics import AllModels, ModelMetrics

_SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)
_COUNTED_FROM_ZERO = (
    DeadlineError,
    InferenceError,
    NotReadyError,
    OverloadedError,
    PredictedWaitError,
    UnexpectedError,
)
"""Shown before the first one happens: from nothing to 1 is no increase to Prometheus."""


class Metrics:
    """What the service counts. Every label has few values, whatever clients send.

    Args:
        shown: what a scrape shows where several processes count together; None: this one's.
    """

    def __init__(self, shown: CollectorRegistry | None = None) -> None:
        self.registry = CollectorRegistry()
        self._shown = shown or self.registry
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._requests = Counter(
            "lavit_requests",
            "Requests answered.",
            ("route", "method", "status", "reason"),
            registry=self.registry,
        )
        self._request_seconds = Histogram(
            "lavit_request_seconds",
            "Time from a request's headers to its whole answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._errors = Counter(
            "lavit_errors",
            "Requests and pictures refused or failed, by reason.",
            ("reason",),
            registry=self.registry,
        )
        for error in _COUNTED_FROM_ZERO:
            self._errors.labels(kind_of(error))
        self.in_flight = Gauge(
            "lavit_requests_in_flight",
            "Requests being answered.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self._ready = Gauge(
            "lavit_ready",
            "1 while every model is ready, else 0.",
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self._is_ready: Callable[[], float] = lambda: 0
        self._queue_capacity = Gauge(
            "lavit_queue_capacity",
            "Most pictures of a model accepted and not yet answered.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        Gauge(
            "lavit_build_info",
            "What runs, always 1.",
            ("version",),
            registry=self.registry,
            multiprocess_mode="livemax",
        ).labels(__version__).set(1)
        self._models = AllModels(self.registry, removable=shown is None)

    def of(self, name: str, version: str) -> ModelMetrics:
        """What is counted about one model."""
        return self._models.of(name, version)

    def watch(self, ready: Callable[[], float]) -> None:
        """Have this read whenever the metrics are: whether every model is ready."""
        self._is_ready = ready

    def capacity(self, pictures: int) -> None:
        """Show how many pictures of a model may be in the house."""
        self._queue_capacity.set(pictures)

    def request(
        self, *, route: str, method: str, status: int, reason: str | None, seconds: float
    ) -> None:
        """Count a request that was answered; `reason` is an error's kind, None without one."""
        self._requests.labels(route, method, str(status), reason or "").inc()
        self._request_seconds.labels(route).observe(seconds)

    def error(self, reason: str) -> None:
        """Count a refused or failed request or picture; `reason` is an error's kind."""
        self._errors.labels(reason).inc()

    def refresh(self) -> None:
        """Read what is not counted but looked up."""
        self._ready.set(self._is_ready())
        self._models.refresh()

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics in the format that an Accept header asks for, and its media type."""
        self.refresh()
        encode, media_type = choose_encoder(accept)
        return encode(self._shown), media_type
