"""Prometheus metrics, in a registry of their own."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.exposition import choose_encoder

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """What the service counts. Every label has few values, whatever clients send."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "lavit_requests",
            "Requests answered.",
            ("route", "method", "status"),
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
        self.in_flight = Gauge(
            "lavit_requests_in_flight", "Requests being answered.", registry=self.registry
        )
        self._batch_size = Histogram(
            "lavit_batch_size",
            "Pictures in a batch.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )
        self._infer_seconds = self._histogram("infer", "Time of a batch in the runtime.")
        self._decode_seconds = self._histogram("decode", "Decoding, resizing, cropping a picture.")
        self._queue_seconds = self._histogram("queue", "Time a picture waited in queues.")
        self._depth = Gauge(
            "lavit_queue_depth",
            "Decoded pictures waiting for the runtime.",
            registry=self.registry,
        )
        self._predicted_wait = Gauge(
            "lavit_predicted_wait_seconds",
            "Time until one more picture would be answered.",
            registry=self.registry,
        )
        self._pending = Gauge(
            "lavit_pictures_pending",
            "Pictures accepted and not yet answered.",
            registry=self.registry,
        )
        self._ready = Gauge(
            "lavit_ready", "1 while the model is ready, else 0.", registry=self.registry
        )
        self._model = Info("lavit_model", "The model being served.", registry=self.registry)

    def _histogram(self, stage: str, description: str) -> Histogram:
        return Histogram(
            f"lavit_{stage}_seconds", description, buckets=_SECONDS, registry=self.registry
        )

    def describe_model(self, labels: dict[str, str]) -> None:
        """Set the labels of `lavit_model_info`."""
        self._model.info(labels)

    def watch(
        self,
        *,
        depth: Callable[[], float],
        predicted_wait: Callable[[], float],
        pending: Callable[[], float],
        ready: Callable[[], float],
    ) -> None:
        """Have these read whenever the metrics are."""
        self._depth.set_function(depth)
        self._predicted_wait.set_function(predicted_wait)
        self._pending.set_function(pending)
        self._ready.set_function(ready)

    def request(self, *, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        known = method if method in _METHODS else "other"
        self._requests.labels(route, known, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def error(self, reason: str) -> None:
        """Count a refused or failed request or picture; `reason` is an error's kind."""
        self._errors.labels(reason).inc()

    def batch(self, size: int, seconds: float) -> None:
        """Count a batch and its time in the runtime."""
        self._batch_size.observe(size)
        self._infer_seconds.observe(seconds)

    def picture(self, *, decode_seconds: float, queue_seconds: float) -> None:
        """Count a classified picture's times."""
        self._decode_seconds.observe(decode_seconds)
        self._queue_seconds.observe(queue_seconds)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics in the format that an Accept header asks for, and its media type."""
        encode, media_type = choose_encoder(accept)
        return encode(self.registry), media_type
