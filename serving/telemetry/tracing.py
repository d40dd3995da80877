"""OpenTelemetry: a span for each request and for each of its stages.

Spans of stages are made when the request has ended, out of its timeline: while it runs, tracing
costs one span. Without an endpoint neither the SDK nor the exporter is imported.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lavit_deploy import __version__
from lavit_deploy.common.errors import MissingDependencyError
from lavit_deploy.serving.telemetry.timeline import Span, Timeline

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan

_log = logging.getLogger("serving.tracing")

VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PATH = "/v1/traces"
_NANOSECONDS = 1_000_000_000
_LAST_SECONDS = 2.0


class RequestTrace:
    """A request's span, begun.

    Args:
        tracing: whose.
        span: the request's.
    """

    def __init__(self, tracing: Tracing, span: OtelSpan) -> None:
        self._tracing = tracing
        self._span = span

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return f"{self._span.get_span_context().trace_id:032x}"

    def end(
        self, timeline: Timeline, *, method: str, route: str, status: int, reason: str | None
    ) -> None:
        """Finish the span, with one for each stage below it."""
        api = self._tracing.api
        span = self._span
        span.update_name(f"{method} {route}")
        span.set_attribute("http.route", route)
        span.set_attribute("http.response.status_code", status)
        if reason is not None:
            span.set_attribute("error.type", reason)
        if status >= 500:
            span.set_status(api.Status(api.StatusCode.ERROR, reason))
        for number, stages in enumerate((timeline.shared, *timeline.pictures)):
            for stage in stages.spans:
                self._tracing.stage(span, stage, picture=number - 1 if number else None)
        span.end()


class Tracing:
    """Makes spans of requests.

    Args:
        provider: where spans go.

    Attributes:
        api: the module `opentelemetry.trace`.
    """

    def __init__(self, provider: TracerProvider) -> None:
        # Here, before the event loop runs, which the first import would hold up.
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.api = trace
        self._propagator = TraceContextTextMapPropagator()
        self._provider = provider
        self._tracer = provider.get_tracer("serving", __version__)
        self._epoch = time.time_ns() - round(time.perf_counter() * _NANOSECONDS)

    @classmethod
    def load(
        cls, endpoint: str | None, environment: Mapping[str, str] = os.environ
    ) -> Tracing | None:
        """Tracing to a collector, or None where none is named.

        Args:
            endpoint: its address, without /v1/traces; None: that of OpenTelemetry's variables,
                which also say what is sampled and which headers are sent.
            environment: the process's variables.

        Raises:
            MissingDependencyError: an endpoint is given and OpenTelemetry is not installed.
        """
        if endpoint is None and not any(environment.get(name) for name in VARIABLES):
            return None
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ModuleNotFoundError as error:
            missing = MissingDependencyError(
                error.name or "opentelemetry", extra="otel", purpose="trace requests"
            )
            if endpoint is not None:
                raise missing from None
            # The variable may have been set for everything in a cluster.
            _log.warning("not tracing: %s", missing)
            return None
        name = environment.get("OTEL_SERVICE_NAME", "lavit-serve")
        resource = Resource.create({"service.name": name, "service.version": __version__})
        # Without its own shutdown at exit, which would wait for the collector again.
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        url = None if endpoint is None else endpoint.rstrip("/").removesuffix(_PATH) + _PATH
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
        return cls(provider)

    def begin(
        self, headers: Mapping[str, str], timeline: Timeline, *, method: str, path: str
    ) -> RequestTrace:
        """Begin the span of a request, below the one that its `traceparent` names."""
        span = self._tracer.start_span(
            method,
            context=self._propagator.extract(dict(headers)),
            kind=self.api.SpanKind.SERVER,
            start_time=self._time(timeline.started),
            attributes={
                "http.request.method": method,
                "url.path": path,
                "lavit.request_id": timeline.request_id or "",
            },
        )
        return RequestTrace(self, span)

    def stage(self, parent: OtelSpan, stage: Span, *, picture: int | None) -> None:
        """Make the span of a stage that has ended."""
        attributes = {"lavit.picture": picture, "lavit.batch": stage.batch}
        self._tracer.start_span(
            stage.name,
            context=self.api.set_span_in_context(parent),
            start_time=self._time(stage.started),
            attributes={name: value for name, value in attributes.items() if value is not None},
        ).end(self._time(stage.started + stage.seconds))

    def close(self) -> None:
        """Send what is left, within two seconds: a dead collector must not hold up the exit."""
        sending = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        sending.start()
        sending.join(_LAST_SECONDS)
        if sending.is_alive():
            _log.warning("the last spans were not sent within %g s", _LAST_SECONDS)

    def _time(self, seconds: float) -> int:
        """`time.perf_counter` to nanoseconds since 1970."""
        return self._epoch + round(seconds * _NANOSECONDS)
