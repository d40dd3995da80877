"""The whole application: problems for whatever goes wrong, and rules for other origins."""

import errno
from unittest.mock import AsyncMock

import pytest

ORIGIN = "https://shop.example"
KEY = "a" * 32


def classify(client, data, **headers):
    return client.post("/classify", content=data, headers={"Content-Type": "image/png", **headers})


def test_two_applications_count_apart(make_client, make_registry, runtime, picture):
    first = make_client(runtime)
    _, _, other = make_registry(runtime)
    classify(first, picture())
    assert b'lavit_batch_size_count{model="colours",version="1"} 0.0' in other.exposition("")[0]


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


def without_descriptors():
    """What a lazy import makes of it."""
    error = KeyError("a module")
    error.__context__ = OSError(errno.EMFILE, "Too many open files")
    raise error


def test_without_descriptors_it_is_busy_and_no_traceback_says_so(
    make_client, runtime, picture, monkeypatch, caplog
):
    client = make_client(runtime)
    with monkeypatch.context() as patched:
        patched.setattr(
            type(client.registry), "unready_reason", property(lambda _: without_descriptors())
        )
        unready = client.get("/readyz")
    monkeypatch.setattr(
        client.classifier._decoders, "decode", AsyncMock(side_effect=OSError(errno.ENFILE, "none"))
    )
    for response in (unready, classify(client, picture())):
        assert response.status_code == 503
        assert response.json()["type"] == "urn:lavit:problem:overloaded"
        assert "ulimit -n" in response.json()["detail"]
    assert "no file descriptor is left" in caplog.text
    assert "Traceback" not in caplog.text


def test_other_origins_are_shut_out_by_default(client, picture):
    response = classify(client, picture(), Origin=ORIGIN)
    assert "access-control-allow-origin" not in response.headers
    preflight = client.options(
        "/classify", headers={"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    )
    assert preflight.status_code == 405
    assert "access-control-allow-origin" not in preflight.headers


def test_an_origin_that_is_named_may_call_and_others_may_not(
    make_client, runtime, picture, tmp_path
):
    key_file = tmp_path / "keys"
    key_file.write_text(KEY)
    client = make_client(runtime, cors_origins=(ORIGIN,), api_keys=key_file)
    ask = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type, x-api-key",
    }
    allowed = client.options("/classify", headers={"Origin": ORIGIN, **ask})
    assert allowed.status_code == 200  # a preflight carries no key
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    assert "access-control-allow-credentials" not in allowed.headers
    answer = classify(client, picture(), Origin=ORIGIN, **{"X-API-Key": KEY})
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "X-Request-ID" in answer.headers["access-control-expose-headers"]
    refused = classify(client, picture(), Origin=ORIGIN)
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == ORIGIN  # so that a page can read it


def test_a_preflight_that_is_refused_is_a_problem(make_client, runtime):
    client = make_client(runtime, cors_origins=(ORIGIN,))
    for origin, method, headers, wrong in (
        ("https://evil.example", "POST", "content-type", "origin"),
        (ORIGIN, "DELETE", "content-type", "method"),
        (ORIGIN, "POST", "x-secret", "headers"),
    ):
        ask = {
            "Origin": origin,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": headers,
        }
        refused = client.options("/classify", headers=ask)
        assert refused.status_code == 400
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["type"] == "urn:lavit:problem:cross-origin"
        assert wrong in refused.json()["detail"]
        assert "access-control-allow-origin" not in refused.headers
        assert "Origin" in refused.headers["vary"]
        assert refused.headers["x-request-id"]
