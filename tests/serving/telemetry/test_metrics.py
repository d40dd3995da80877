"""What is counted, as a Prometheus server would read it."""

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from lavit_deploy import __version__
from lavit_deploy.serving.telemetry.metrics import Metrics

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def samples_of(metrics):
    """(name, its labels) -> value."""
    text = metrics.exposition("")[0].decode()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in read_text(text)
        for sample in family.samples
    }


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def value(metrics):
    def of(name, **labels):
        return samples_of(metrics).get((name, *sorted(labels.items())))

    return of


def test_requests_are_counted_by_what_tells_them_apart(metrics, value):
    ways = {"route": "/classify", "method": "POST"}
    for status, reason, seconds in [(200, None, 0.02), (200, None, 0.3), (503, "overloaded", 0)]:
        metrics.request(**ways, status=status, reason=reason, seconds=seconds)
    assert value("lavit_requests_total", **ways, status="200", reason="") == 2
    assert value("lavit_requests_total", **ways, status="503", reason="overloaded") == 1
    assert value("lavit_request_seconds_count", route="/classify") == 3
    assert value("lavit_request_seconds_sum", route="/classify") == pytest.approx(0.32)
    assert value("lavit_request_seconds_bucket", route="/classify", le="0.025") == 2
    assert value("lavit_request_seconds_bucket", route="/classify", le="0.5") == 3


@pytest.mark.parametrize(
    "reason",
    ["deadline", "inference", "not-ready", "overloaded", "predicted-wait", "unexpected"],
)
def test_an_alert_sees_the_first_error_of_a_kind_as_an_increase(metrics, value, reason):
    assert value("lavit_errors_total", reason=reason) == 0
    metrics.error(reason)
    assert value("lavit_errors_total", reason=reason) == 1


def test_other_reasons_are_shown_once_they_happened(metrics, value):
    assert value("lavit_errors_total", reason="corrupt-image") is None
    metrics.error("corrupt-image")
    assert value("lavit_errors_total", reason="corrupt-image") == 1


def test_readiness_is_looked_up_whenever_metrics_are_read(metrics, value):
    assert value("lavit_ready") == 0  # nobody has said otherwise
    ready = [1]
    metrics.watch(ready.pop)
    assert value("lavit_ready") == 1
    metrics.watch(lambda: 0)
    assert value("lavit_ready") == 0


def test_requests_in_flight_go_up_and_down(metrics, value):
    with metrics.in_flight.track_inprogress():
        assert value("lavit_requests_in_flight") == 1
    assert value("lavit_requests_in_flight") == 0


def test_the_places_of_a_model_and_the_version_are_shown(metrics, value):
    metrics.capacity(64)
    assert value("lavit_queue_capacity") == 64
    assert value("lavit_build_info", version=__version__) == 1


def test_the_process_and_the_interpreter_are_shown(metrics, value):
    assert value("process_resident_memory_bytes") > 0
    assert value("python_gc_collections_total", generation="0") >= 0


def test_two_of_them_count_apart(metrics):
    other = Metrics()
    other.error("overloaded")
    assert samples_of(metrics)["lavit_errors_total", ("reason", "overloaded")] == 0


def test_the_format_is_the_one_that_the_scraper_asks_for(metrics):
    metrics.error("overloaded")
    text, media_type = metrics.exposition(OPENMETRICS)
    assert media_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")
    names = {family.name for family in read_openmetrics(text.decode())}
    assert {"lavit_errors", "lavit_requests", "lavit_ready"} <= names
    assert metrics.exposition("*/*")[1].startswith("text/plain")


def test_where_processes_count_together_what_they_share_is_shown():
    shared = CollectorRegistry()
    Counter("of_all", "Everybody's.", registry=shared).inc(3)
    found = samples_of(Metrics(shared))
    assert found["of_all_total",] == 3
    assert {name for name, *_ in found} == {"of_all_total", "of_all_created"}
