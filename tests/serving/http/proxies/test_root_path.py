"""Below a prefix the service is what it is at the root, whether a proxy takes it off or not."""

import logging
import re

import pytest
from fastapi.testclient import TestClient

from lavit_deploy.common.errors import UsageError
from lavit_deploy.serving.http.app import create_app
from lavit_deploy.serving.http.proxies.root_path import (
    check_prefix,
    relative_redirect,
    without_prefix,
)

PREFIX = "/deep/lavit"


@pytest.mark.parametrize(
    ("path", "rest"),
    [
        ("/deep/lavit", "/"),
        ("/deep/lavit/", "/"),
        ("/deep/lavit/classify", "/classify"),
        ("/deep/lavit//x", "//x"),
        ("/classify", "/classify"),
        ("/deep/lavitx", "/deep/lavitx"),
        ("/deep", "/deep"),
        ("/", "/"),
    ],
)
def test_a_prefix_is_taken_off_where_it_is(path, rest):
    assert without_prefix(path, PREFIX) == rest
    assert without_prefix(path, "") == path


@pytest.mark.parametrize("prefix", ["/v2", "/v2/models", "/classify", "/docs", "/page", "/admin"])
def test_a_prefix_that_is_a_path_of_the_service_is_refused(prefix):
    with pytest.raises(UsageError, match=f"--root-path {prefix} is a path of the service itself"):
        check_prefix(prefix)


@pytest.mark.parametrize("prefix", ["", "/v", "/v2x", "/models/v2", "/lavit"])
def test_any_other_may_be(prefix):
    check_prefix(prefix)


@pytest.mark.parametrize(
    ("path", "location", "relative"),
    [
        ("/docs/", "http://x/docs", "../docs"),
        ("/docs//", "http://x/docs", "../../docs"),
        ("/page", "https://x:1/page/", "./page/"),
        ("/docs/", "http://x/docs?a=b&c=%20", "../docs?a=b&c=%20"),
        ("/v2/models/a:b/", "http://x/v2/models/a:b", "../a:b"),
    ],
)
def test_a_redirect_is_relative(path, location, relative):
    assert relative_redirect(path, location) == relative


@pytest.fixture(params=["configured", "of the server"])
def client(request, make_client, make_registry, runtime):
    """With the option, and below a server that mounts the application there, as Ray does."""
    if request.param == "configured":
        yield make_client(runtime, root_path=PREFIX)
        return
    registry, settings, metrics = make_registry(runtime)
    app = create_app(registry, settings, metrics)
    with TestClient(app, root_path=PREFIX) as client:
        client.portal.call(registry.until_ready)
        yield client


@pytest.mark.parametrize("at", [PREFIX, ""])
def test_every_route_is_there_with_and_without_the_prefix(client, at, picture):
    for path in ("/", "/docs", "/openapi.json", "/page/page.js", "/docs/assets/swagger-ui.css"):
        assert client.get(at + path).status_code == 200
    assert client.head(f"{at}/healthz").status_code == 200
    png = {"Content-Type": "image/png"}
    for path in ("/classify", "/classify?top_k=1"):
        assert client.post(at + path, content=picture(), headers=png).status_code == 200
    assert client.get(f"{at}/v2/models/colours").json()["name"] == "colours"


def test_the_page_finds_its_files_also_without_the_slash(client):
    for path in (PREFIX, f"{PREFIX}/"):
        page = client.get(path)
        assert f'<base href="{PREFIX}/">' in page.text
        assert "base-uri 'self'" in page.headers["content-security-policy"]
        for link in re.findall(r'(?:src|href)="([^/"][^"]*)"', page.text):
            assert client.get(f"{PREFIX}/{link}").status_code == 200
        assert not re.search(r'(src|href)="/(?!deep/lavit/")', page.text)


def test_what_is_logged_counted_and_asked_for_keys_is_the_route(
    make_client, runtime, tmp_path, caplog
):
    caplog.set_level(logging.DEBUG, logger="serving.requests")
    keys = tmp_path / "keys"
    keys.write_text("a" * 32)
    client = make_client(runtime, root_path=PREFIX, api_keys=keys)
    assert client.get(f"{PREFIX}/healthz").status_code == 200  # open to everybody
    assert client.get(f"{PREFIX}/models").status_code == 401
    assert client.get(f"{PREFIX}/admin/models").status_code == 401
    records = [item for item in caplog.records if item.name == "serving.requests"]
    assert [(item.levelname, item.getMessage()) for item in records] == [
        ("DEBUG", "GET /healthz 200"),
        ("INFO", "GET /models 401"),
        ("INFO", "GET /admin/models 401"),
    ]


def test_what_is_told_to_people_has_the_prefix(client):
    assert f"see {PREFIX}/docs" in client.get(f"{PREFIX}/nowhere").json()["detail"]


def test_a_redirect_keeps_below_the_prefix_whoever_the_host_is(client):
    answer = client.get(
        f"{PREFIX}/docs/?a=b", headers={"Host": "evil.example"}, follow_redirects=False
    )
    assert (answer.status_code, answer.headers["location"]) == (307, "../docs?a=b")


def test_the_description_names_the_prefix_that_is_configured(make_client, runtime):
    client = make_client(runtime, root_path=PREFIX)
    assert client.get("/openapi.json").json()["servers"] == [{"url": PREFIX}]
    with pytest.raises(UsageError, match="--root-path /v2"):
        make_client(runtime, root_path="/v2")
