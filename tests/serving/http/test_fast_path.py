"""The short way to `/classify` against the long one, which a query takes."""

import pytest

SHORT, LONG = "/classify", "/classify?top_k=3"  # the model has three classes: the same answer
PNG = {"Content-Type": "image/png"}


def comparable(response):
    """An answer without what differs between any two of them."""
    body = response.json()
    for name in ("request_id", "instance", "timing"):
        body.pop(name, None)
    for result in body.get("results", ()):
        result.pop("timing", None)
    varying = {"x-request-id", "server-timing", "content-length"}
    headers = {name: value for name, value in response.headers.items() if name not in varying}
    return response.status_code, headers, body


@pytest.mark.parametrize(
    ("data", "headers"),
    [
        (None, PNG),
        (b"rubbish", PNG),
        (b"", PNG),
        (b"{}", {"Content-Type": "application/json"}),
        (b"x", {"Content-Type": "text/plain"}),
        (b"x" * 300_000, PNG),
        (None, PNG | {"X-Request-Timeout-Ms": "soon"}),
        (None, PNG | {"X-Request-Timeout-Ms": "60000", "Origin": "https://example.org"}),
    ],
)
def test_both_ways_give_the_same_answer(client, picture, data, headers):
    data = picture() if data is None else data
    short, long = (client.post(path, content=data, headers=headers) for path in (SHORT, LONG))
    assert comparable(short) == comparable(long)
    assert short.headers["x-request-id"]
    assert short.headers["server-timing"]


def test_a_fault_of_the_program_is_a_problem_on_both_ways(client, picture, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(client.registry, "use", fail)
    short, long = (client.post(path, content=picture(), headers=PNG) for path in (SHORT, LONG))
    assert comparable(short) == comparable(long)
    assert short.status_code == 500
    assert short.headers["content-type"] == "application/problem+json"


def test_both_ways_are_counted_under_the_same_route(client, picture):
    for path in (SHORT, LONG):
        client.post(path, content=picture(), headers=PNG)
    counted = 'lavit_requests_total{method="POST",reason="",route="/classify",status="200"} 2.0'
    assert counted in client.get("/metrics").text.splitlines()


def test_another_method_is_refused_as_ever(client):
    assert client.get(SHORT).status_code == 405
