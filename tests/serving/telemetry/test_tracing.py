"""Spans of requests, and no trace of OpenTelemetry where none are wanted."""

import gzip
import http.server
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from lavit_deploy.common.errors import MissingDependencyError
from lavit_deploy.serving.http.app import create_app
from lavit_deploy.serving.telemetry.tracing import Tracing

trace_exporter = pytest.importorskip(
    "opentelemetry.exporter.otlp.proto.http.trace_exporter", reason="OpenTelemetry is not installed"
)
trace_service_pb2 = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
InMemorySpanExporter = pytest.importorskip(
    "opentelemetry.sdk.trace.export.in_memory_span_exporter"
).InMemorySpanExporter

ROOT = Path(__file__).parents[3]
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def traced(exporter, make_registry, runtime):
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    registry, settings, metrics = make_registry(runtime)
    app = create_app(registry, settings, metrics, tracing=Tracing(provider))
    with TestClient(app, raise_server_exceptions=False) as client:
        client.portal.call(registry.until_ready)
        yield client


def classify(client, *bodies, **headers):
    files = [("f", (str(index), body)) for index, body in enumerate(bodies)]
    return client.post("/classify", files=files, headers=headers)


def test_a_request_has_a_span_with_its_stages_below_it(traced, exporter, picture):
    classify(traced, picture(), picture(), **{"X-Request-ID": "r1"})
    spans = exporter.get_finished_spans()
    (root,) = [span for span in spans if span.parent is None]
    assert root.name == "POST /classify"
    assert root.attributes["http.response.status_code"] == 200
    assert root.attributes["lavit.request_id"] == "r1"
    stages = [span for span in spans if span is not root]
    assert {span.parent.span_id for span in stages} == {root.context.span_id}
    for number in (0, 1):
        names = [span.name for span in stages if span.attributes.get("lavit.picture") == number]
        assert names == ["queue", "decode", "queue", "infer"]
    assert [span.name for span in stages if "lavit.picture" not in span.attributes] == ["read"]
    assert {span.attributes["lavit.batch"] for span in stages if span.name == "infer"} <= {1, 2}
    for span in stages:
        assert root.start_time <= span.start_time <= span.end_time
        assert span.end_time <= root.end_time + 1_000  # rounded to nanoseconds stage by stage


def test_a_trace_goes_on_from_the_clients_and_its_id_is_in_the_log(
    traced, exporter, picture, caplog
):
    caplog.set_level("INFO", logger="serving")
    classify(traced, picture(), traceparent=PARENT)
    root = exporter.get_finished_spans()[-1]
    assert f"{root.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{root.parent.span_id:016x}" == PARENT.split("-")[2]
    (record,) = [item for item in caplog.records if item.name == "serving.requests"]
    assert record.trace_id == PARENT.split("-")[1]


@pytest.mark.parametrize("header", ["rubbish", "00-0-0-01", ""])
def test_a_traceparent_that_is_none_begins_a_trace(traced, exporter, picture, header):
    assert classify(traced, picture(), traceparent=header).status_code == 200
    assert exporter.get_finished_spans()[-1].parent is None


def test_a_failure_is_in_the_span_with_its_reason(traced, exporter, runtime, picture):
    runtime.failure = RuntimeError("device lost")
    assert classify(traced, picture()).status_code == 500
    root = exporter.get_finished_spans()[-1]
    assert root.attributes["error.type"] == "inference"
    assert not root.status.is_ok


def test_health_checks_are_not_traced(traced, exporter):
    for path in ("/healthz", "/readyz", "/metrics"):
        traced.get(path)
    assert exporter.get_finished_spans() == ()


def test_without_an_endpoint_neither_sdk_nor_exporter_is_imported():
    code = (
        "import sys\nimport lavit_deploy.serving.http.app\n"
        "from lavit_deploy.serving.telemetry.tracing import Tracing\n"
        "assert Tracing.load(None, {}) is None\n"
        "heavy = ('opentelemetry.sdk', 'opentelemetry.exporter')\n"
        "assert not [name for name in sys.modules if name.startswith(heavy)]\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_an_endpoint_without_the_extra_is_refused_and_a_variable_only_told(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(MissingDependencyError, match=r"lavit-deploy\[otel\]"):
        Tracing.load("http://127.0.0.1:4318", {})
    assert Tracing.load(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}) is None
    assert "not tracing: " in caplog.text


@pytest.mark.parametrize("endpoint", ["http://h:1", "http://h:1/", "http://h:1/v1/traces"])
def test_spans_go_to_the_collectors_path(endpoint, monkeypatch):
    given = []
    made = trace_exporter.OTLPSpanExporter.__init__

    def seen(self, **options):
        given.append(options["endpoint"])
        made(self, **options)

    monkeypatch.setattr(trace_exporter.OTLPSpanExporter, "__init__", seen)
    Tracing.load(endpoint, {}).close()
    assert given == ["http://h:1/v1/traces"]


@pytest.fixture
def collector():
    """An HTTP server that takes what is exported: (its address, paths and bodies)."""
    taken = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            taken.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", taken
        server.shutdown()


def test_the_last_spans_reach_the_collector_before_the_process_ends(
    collector, serve, bundle_path, picture, post
):
    address, taken = collector
    server = serve(bundle_path, "--otlp-endpoint", address)
    assert post(f"{server.url}/classify", picture())[0] == 200
    assert server.stop() == 0
    names = []
    for path, body in taken:
        assert path == "/v1/traces"
        # The exporter packs what it sends.
        data = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
        message = trace_service_pb2.ExportTraceServiceRequest.FromString(data)
        for resource in message.resource_spans:
            facts = {item.key: item.value.string_value for item in resource.resource.attributes}
            assert facts["service.name"] == "lavit-serve"
            names += [span.name for scope in resource.scope_spans for span in scope.spans]
    assert sorted(names) == ["POST /classify", "decode", "infer", "queue", "queue", "read"]


def test_a_collector_that_hangs_does_not_hold_up_the_end(monkeypatch, caplog):
    hanging = threading.Event()

    class Provider:
        def get_tracer(self, *_):
            return None

        def shutdown(self):
            assert hanging.wait(30)

    monkeypatch.setattr("lavit_deploy.serving.telemetry.tracing._LAST_SECONDS", 0.01)
    Tracing(Provider()).close()
    hanging.set()
    assert "the last spans were not sent within 0.01 s" in caplog.text
