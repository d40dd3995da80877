"""Administration over HTTP: only with a key, and only beside the service's own bundles."""

import contextlib

import pytest
from fastapi.testclient import TestClient

from lavit_deploy.serving.http.app import create_app
from lavit_deploy.serving.models.open_models import open_models
from lavit_deploy.serving.models.registry import Registry
from lavit_deploy.serving.settings.settings import ServiceSettings
from lavit_deploy.serving.telemetry.metrics import Metrics

KEY, ADMIN_KEY = "k" * 32, "a" * 32
FIRST = "/admin/models/colours/versions/1"
NEW = "fedcba987654"


@pytest.fixture
def serve_with(bundle_path, tmp_path):
    """The service over a bundle, with keys."""
    with contextlib.ExitStack() as stack:

        def make(keys=None, admin=None, workers=1):
            files = {}
            for option, key in (("api_keys", keys), ("admin_keys", admin)):
                if key is not None:
                    files[option] = tmp_path / option
                    files[option].write_text(key)
            settings = ServiceSettings(bundles=(bundle_path,), threads=1, decoders=1, **files)
            metrics = Metrics()
            registry = Registry(open_models(settings), settings, metrics)
            app = create_app(registry, settings, metrics, workers=workers)
            client = stack.enter_context(TestClient(app, raise_server_exceptions=False))
            client.portal.call(registry.until_ready)
            return client

        yield make


@pytest.fixture
def client(serve_with):
    client = serve_with(admin=ADMIN_KEY)
    client.headers["X-API-Key"] = ADMIN_KEY
    return client


def assert_problem(response, status, kind):
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == f"urn:lavit:problem:{kind}"
    return response.json()["detail"]


def test_one_of_several_workers_shows_the_models_and_says_how_to_change_them(serve_with):
    client = serve_with(admin=ADMIN_KEY, workers=2)
    for method in ("POST", "DELETE"):
        assert client.request(method, FIRST).status_code == 401
    client.headers["X-API-Key"] = ADMIN_KEY
    for method in ("POST", "DELETE"):
        detail = assert_problem(client.request(method, FIRST), 409, "several-workers")
        assert detail == (
            "this is one of 2 workers and cannot change the models of the others: change the "
            "bundles or the configuration, then send SIGHUP to lavit-serve"
        )
    assert [model["name"] for model in client.get("/admin/models").json()["models"]] == ["colours"]


def test_a_405_lists_the_methods_of_all_routes_of_a_path(serve_with):
    response = serve_with(admin=ADMIN_KEY).put(
        FIRST, headers={"Authorization": f"Bearer {ADMIN_KEY}"}
    )
    assert (response.status_code, response.headers["allow"]) == (405, "DELETE, POST")


def test_without_any_key_there_is_no_administration(serve_with):
    client = serve_with()
    for method, path in (("GET", "/admin/models"), ("POST", FIRST), ("DELETE", FIRST)):
        assert client.request(method, path).status_code == 404
    assert not [path for path in client.get("/openapi.json").json()["paths"] if "admin" in path]


@pytest.mark.parametrize(
    ("keys", "given", "status"),
    [
        ({"keys": KEY}, KEY, 200),
        ({"keys": KEY}, None, 401),
        ({"admin": ADMIN_KEY}, ADMIN_KEY, 200),
        ({"admin": ADMIN_KEY}, None, 401),
        ({"keys": KEY, "admin": ADMIN_KEY}, ADMIN_KEY, 200),
        ({"keys": KEY, "admin": ADMIN_KEY}, KEY, 401),
    ],
)
def test_administration_asks_for_its_own_key_or_else_for_the_services(
    serve_with, keys, given, status
):
    client = serve_with(**keys)
    headers = {"X-API-Key": given} if given else {}
    assert client.get("/admin/models", headers=headers).status_code == status
    assert client.delete(FIRST, headers=headers).status_code == (409 if status == 200 else 401)


def test_a_key_of_administration_alone_leaves_the_service_open(serve_with):
    client = serve_with(admin=ADMIN_KEY)
    assert client.get("/models").status_code == 200


def test_the_listing_says_where_each_model_is_from(client, bundle_path):
    (entry,) = client.get("/admin/models").json()["models"]
    assert entry == {
        "name": "colours",
        "version": "1",
        "artifact": "onnx-fp32",
        "checkpoint": "0123456789ab",
        "default": True,
        "ready": True,
        "classes": 3,
        "bundle": str(bundle_path),
        "reason": None,
        "pending": 0,
    }


def test_a_model_is_loaded_asked_made_the_default_and_unloaded(client, write_bundle, picture):
    second = write_bundle(folder="second", checkpoint=NEW)
    path = "/admin/models/paints/versions/v2"
    answer = client.post(path, json={"bundle": str(second)})
    assert answer.status_code == 200
    assert (answer.json()["name"], answer.json()["version"]) == ("paints", "v2")
    asked = client.post("/classify?model=paints", files={"f": picture()}).json()
    assert asked["model"]["checkpoint"] == NEW
    assert client.get("/v2/models/paints/versions/v2/ready").status_code == 200
    assert client.post(path, json={"default": True}).json()["default"]
    assert client.post("/classify", files={"f": picture()}).json()["model"]["name"] == "paints"
    assert client.delete(FIRST).status_code == 204
    assert [item["name"] for item in client.get("/models").json()["models"]] == ["paints"]
    assert client.get("/v2/models/colours").status_code == 404
    assert_problem(client.delete(FIRST), 404, "unknown-model")
    assert "the only model" in assert_problem(client.delete(path), 409, "last-model")


def test_an_empty_body_opens_the_bundle_again(client, write_bundle):
    write_bundle(checkpoint=NEW)
    assert client.post(FIRST).json()["checkpoint"] == NEW
    refused = client.post("/admin/models/colours/versions/2")
    assert "say where its bundle is" in assert_problem(refused, 404, "unknown-model")


def test_a_bundle_that_is_refused_is_a_problem_with_the_reason(client, write_bundle):
    bad = write_bundle(folder="bad", passed=False)
    detail = assert_problem(client.post(FIRST, json={"bundle": str(bad)}), 422, "model-refused")
    assert "failed parity" in detail
    assert client.get("/readyz").status_code == 200


def test_bundles_from_other_folders_are_not_touched(client, bundle_path, write_bundle, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    outside = write_bundle(folder="elsewhere/colours.bundle")
    link = tmp_path / "link.bundle"
    link.symlink_to(outside)
    for path in (outside, link, "/etc", tmp_path / "x" / ".." / "elsewhere" / "colours.bundle"):
        answer = client.post(FIRST, json={"bundle": str(path)})
        assert "are loaded from" in assert_problem(answer, 422, "model-refused")


def test_what_is_no_path_is_refused(client, bundle_path):
    for path, why in (("a\0b", "null"), (f"{bundle_path.parent}/{'a' * 300}", "bundle")):
        answer = client.post(FIRST, json={"bundle": path})
        assert why in assert_problem(answer, 422, "model-refused")


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'{"bundle": 3}', b'{"bundle": ""}', b'{"path": "/x"}', b"\xff"]
)
def test_a_body_that_is_not_what_it_should_be_is_refused(client, body):
    assert_problem(client.post(FIRST, content=body), 422, "invalid-parameter")


@pytest.mark.parametrize("name", ["a b", "-x", "é", "a" * 101])
def test_a_name_that_cannot_be_is_refused(client, name):
    answer = client.post(f"/admin/models/{name}/versions/1", json={"bundle": "/x"})
    assert_problem(answer, 422, "invalid-parameter")


def test_administration_is_documented_where_it_exists(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths["/admin/models/{name}/versions/{version}"]) == {"post", "delete"}
