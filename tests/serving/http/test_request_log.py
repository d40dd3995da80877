"""Every request has an id, is counted by its route and the kind of its problem, and is logged."""

import logging
import re

import pytest

from served_metrics import samples, value


def classify(client, data, **headers):
    return client.post("/classify", content=data, headers={"Content-Type": "image/png", **headers})


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
    ("path", "shown"),
    [
        ("/x%20200%20status=200", "/x%20200%20status%3D200"),
        ("/x%0a2026-01-01%20INFO%20forged", "/x%0A2026-01-01%20INFO%20forged"),
        ("/x%22%20client%3D%221.2.3.4%22", "/x%22%20client%3D%221.2.3.4%22"),
        ("/%E2%80%A8x%1b[31m", "/%E2%80%A8x%1B[31m"),
        ("/v2/models/a:b(1)/ready", "/v2/models/a:b(1)/ready"),
    ],
)
def test_a_path_forges_no_line_and_no_field(client, caplog, path, shown):
    caplog.set_level(logging.INFO, logger="serving")
    assert client.get(path).status_code == 404
    (record,) = [item for item in caplog.records if item.name == "serving.requests"]
    assert record.getMessage() == f"GET {shown} 404"
