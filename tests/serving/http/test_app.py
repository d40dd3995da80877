"""Health, readiness, metrics, documentation, request ids and problems of every route."""

import asyncio
import json
import logging
import re
import threading
import time

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lavit_deploy.serving.http.app import create_app
from lavit_deploy.serving.telemetry.logs import JsonLines, TextLines

MODEL = {"model": "colours", "version": "1"}


def samples(client):
    """Every sample of /metrics: (name, sorted labels) -> value."""
    text = client.get("/metrics").text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(client, metric, /, **labels):
    return samples(client).get((metric, tuple(sorted(labels.items()))), 0.0)


def classify(client, data):
    return client.post("/classify", content=data, headers={"Content-Type": "image/png"})


def test_live_and_ready_when_warm(client):
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ok"}


def test_live_but_not_ready_before_the_warm_up_has_ended(make_registry, runtime, picture):
    runtime.held = True

    async def main():
        registry, settings, metrics = make_registry(runtime)
        app = create_app(registry, settings, metrics)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
        ):
            assert (await client.get("/healthz")).status_code == 200
            unready = await client.get("/readyz")
            early = await client.post(
                "/classify", content=picture(), headers={"Content-Type": "image/png"}
            )
            for response in (unready, early):
                assert response.status_code == 503
                assert "warming up" in response.json()["detail"]
                assert int(response.headers["retry-after"]) >= 1
            runtime.let_go(4)  # the smallest and the largest batch, twice each
            await registry.until_ready()
            assert (await client.get("/readyz")).status_code == 200
        assert runtime.closed

    asyncio.run(main())


def test_not_ready_while_stopping_although_pictures_are_still_taken(client, picture):
    client.registry.stop_soon()
    response = client.get("/readyz")
    assert response.status_code == 503
    assert "stopping" in response.json()["detail"]
    assert client.get("/healthz").status_code == 200
    assert classify(client, picture()).status_code == 200


def test_not_ready_when_the_runtime_keeps_failing_and_ready_when_it_is_open_again(
    make_client, runtime, picture
):
    allowed = threading.Event()

    def reopen():
        assert allowed.wait(30)
        runtime.failure = None
        return runtime

    client = make_client(runtime, reopen=reopen)
    runtime.failure = RuntimeError("device lost")
    for _ in range(3):
        assert classify(client, picture()).status_code == 500
    unready = client.get("/readyz")
    assert unready.status_code == 503
    assert "the model is opened again" in unready.json()["detail"]
    assert classify(client, picture()).status_code == 503
    assert value(client, "lavit_ready") == 0
    assert value(client, "lavit_runtime_instances", **MODEL) == 0
    allowed.set()
    while client.get("/readyz").status_code != 200:
        time.sleep(0.01)
    assert classify(client, picture()).status_code == 200
    assert value(client, "lavit_runtime_restarts_total", **MODEL, outcome="ok") == 1
    assert value(client, "lavit_runtime_instances", **MODEL) == 1


def test_metrics_count_requests_batches_times_and_errors(client, picture):
    classify(client, picture())
    client.post("/classify", files=[("f", ("a", picture())), ("f", ("b", b"bad"))])
    classify(client, b"bad")
    client.get("/nowhere")
    client.request("BREW", "/classify")
    route = {"route": "/classify", "method": "POST"}
    assert value(client, "lavit_requests_total", **route, status="200", reason="") == 2
    unsupported = {**route, "status": "415", "reason": "unsupported-image"}
    assert value(client, "lavit_requests_total", **unsupported) == 1
    assert value(client, "lavit_errors_total", reason="unsupported-image") == 2
    assert value(client, "lavit_errors_total", reason="not-found") == 1
    assert value(client, "lavit_batch_size_sum", **MODEL) == 2
    assert value(client, "lavit_infer_seconds_count", **MODEL) == value(
        client, "lavit_batch_size_count", **MODEL
    )
    assert value(client, "lavit_decode_seconds_count", **MODEL) == 2
    assert value(client, "lavit_queue_seconds_count", **MODEL) == 2
    assert value(client, "lavit_queue_depth", **MODEL) == 0
    assert value(client, "lavit_pictures_pending", **MODEL) == 0
    assert value(client, "lavit_requests_in_flight") == 1  # the scrape itself
    assert value(client, "lavit_ready") == 1
    assert (
        value(
            client,
            "lavit_model_info",
            **MODEL,
            artifact="onnx-fp32",
            checkpoint="0123456789ab",
            runtime="onnxruntime",
        )
        == 1
    )


def test_a_request_is_counted_by_the_kind_of_its_problem(client):
    route = {"route": "/classify", "method": "POST"}
    classify(client, b"bad")
    client.post("/classify", files=[("f", ("a", b"bad")), ("f", ("b", b"bad"))])
    client.post("/classify?top_k=0", content=b"x", headers={"Content-Type": "image/png"})
    for status, reason in (
        ("415", "unsupported-image"),
        ("415", "no-picture-classified"),
        ("422", "invalid-parameter"),
    ):
        labels = {**route, "status": status, "reason": reason}
        assert value(client, "lavit_requests_total", **labels) == 1, labels


def test_what_alerts_ask_for_is_there_before_it_happens(make_client, runtime):
    there = samples(make_client(runtime, queue=77))
    for reason in ("deadline", "inference", "not-ready", "overloaded", "predicted-wait"):
        assert there["lavit_errors_total", (("reason", reason),)] == 0
    for outcome in ("ok", "failed"):
        labels = tuple(sorted({**MODEL, "outcome": outcome}.items()))
        assert there["lavit_runtime_restarts_total", labels] == 0
    assert there["lavit_queue_capacity", ()] == 77
    assert there["process_start_time_seconds", ()] > 0


def test_a_deadline_that_passes_is_counted_and_logged_with_the_stages_there_were(
    make_client, runtime, picture, caplog
):
    caplog.set_level(logging.INFO, logger="serving")
    client = make_client(runtime)
    runtime.held = True
    response = client.post(
        "/classify",
        content=picture(),
        headers={"Content-Type": "image/png", "X-Request-Timeout-Ms": "500"},
    )
    runtime.let_go(9)
    assert response.status_code == 504
    assert "queue;dur=" in response.headers["server-timing"]
    assert value(client, "lavit_errors_total", reason="deadline") == 1
    (record,) = [item for item in caplog.records if getattr(item, "status", 0) == 504]
    assert record.reason == "deadline"
    assert record.queue_ms > 0


def test_unknown_paths_and_methods_add_no_labels_of_their_own(client):
    for number in range(5):
        client.get(f"/nowhere/{number}")
        client.get(f"/page/nothing-{number}.js")
        client.request(f"VERB{number}", "/healthz")
    labels = {dict(labels).get("route") for _, labels in samples(client)}
    assert labels <= {None, "unmatched", "/page", "/healthz", "/metrics"}
    methods = {dict(labels).get("method") for _, labels in samples(client)}
    assert methods <= {None, "GET", "other"}


def test_two_applications_count_apart(make_client, make_registry, runtime, picture):
    first = make_client(runtime)
    _, _, other = make_registry(runtime)
    classify(first, picture())
    assert b'lavit_batch_size_count{model="colours",version="1"} 0.0' in other.exposition("")[0]


def test_a_request_id_is_made_where_none_is_given(client):
    first, second = (client.get("/healthz").headers["x-request-id"] for _ in range(2))
    assert re.fullmatch("[0-9a-f]{32}", first)
    assert first != second


def test_a_request_id_comes_back_and_stands_in_the_answer_and_the_log(client, picture, caplog):
    caplog.set_level(logging.INFO, logger="serving")
    response = client.post(
        "/classify",
        content=picture(),
        headers={"Content-Type": "image/png", "X-Request-ID": "order-66"},
    )
    assert response.headers["x-request-id"] == response.json()["request_id"] == "order-66"
    (record,) = [item for item in caplog.records if item.name == "serving.requests"]
    assert record.request_id == "order-66"
    assert record.pictures == 1


@pytest.mark.parametrize("forged", ["a b", "x" * 129, "a\\nb", "é", ""])
def test_a_request_id_that_could_forge_a_log_line_is_replaced(client, forged):
    response = client.get("/healthz", headers={"X-Request-ID": forged.encode()})
    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/classify", 405), ("GET", "/page/no.js", 404)],
)
def test_every_refusal_is_a_problem(client, method, path, status):
    response = client.request(method, path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == status
    assert response.json()["instance"].startswith(f"{path}#")


def test_a_method_that_is_not_allowed_says_which_is(client):
    assert client.get("/classify").headers["allow"] == "POST"


def test_an_unexpected_fault_is_a_problem_without_internals(client, monkeypatch, caplog):
    def fail(*_):
        raise ZeroDivisionError("/secret/path")

    monkeypatch.setattr(type(client.registry), "unready_reason", property(fail))
    response = client.get("/readyz")
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == "urn:lavit:problem:unexpected"
    assert "secret" not in response.text
    assert "ZeroDivisionError" in caplog.text


def test_the_documentation_comes_from_this_server_alone(client):
    page = client.get("/docs").text
    assert "//cdn" not in page
    assert "https://" not in page
    for asset in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert client.get(asset).status_code == 200, asset


def test_openapi_describes_answers_problems_and_limits(client):
    schema = client.get("/openapi.json").json()
    classify = schema["paths"]["/classify"]["post"]
    assert set(classify["responses"]) == {
        *("200", "400", "404", "408", "413", "415", "422", "500", "503", "504"),
    }
    names = {item["name"] for item in classify["parameters"]}
    assert names == {"top_k", "model", "version", "X-Request-Timeout-Ms"}
    body = classify["requestBody"]["content"]
    assert set(body) >= {
        *("multipart/form-data", "application/json", "image/jpeg", "application/octet-stream"),
    }
    for status, response in classify["responses"].items():
        if status != "200":
            assert list(response["content"]) == ["application/problem+json"]
    text = json.dumps(schema)
    for reference in set(re.findall(r"#/components/schemas/(\w+)", text)):
        assert reference in schema["components"]["schemas"]
    assert "HTTPValidationError" not in text


def record(message="hello", **extra):
    made = logging.LogRecord("serving", logging.INFO, "file", 1, message, (), None)
    made.__dict__.update(extra)
    return made


def test_json_logs_are_one_object_in_a_line_with_what_was_added():
    line = JsonLines().format(record("a\nb", request_id="r1", milliseconds=1.5))
    assert "\n" not in line
    values = json.loads(line)
    assert values["message"] == "a\nb"
    assert values["level"] == "info"
    assert (values["request_id"], values["milliseconds"]) == ("r1", 1.5)


def test_text_logs_show_what_was_added():
    line = TextLines().format(record(request_id="r1"))
    assert line.endswith("INFO hello request_id=r1")
