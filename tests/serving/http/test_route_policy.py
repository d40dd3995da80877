"""One table says of every endpoint who may call it, whether it is logged and whether it is work."""

import pytest
from starlette.routing import Mount

from lavit_deploy.serving.http.app import create_app
from lavit_deploy.serving.http.route_policy import POLICIES, policy_of

V2 = "/v2/models/{model_name}"
OPEN = {"/", "/page/", "/docs", "/docs/assets/", "/openapi.json"} | {
    *("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")
}
QUIET = {"/healthz", "/readyz", "/metrics", "/page/", "/docs/assets/"}
WORK = {"/classify", f"{V2}/infer", f"{V2}/versions/{{model_version}}/infer"}
ADMIN = {"/admin/", "/admin/models", "/admin/models/{name}/versions/{version}"}


def served(routes):
    """Patterns of the routes, as the table writes them."""
    for route in routes:
        if isinstance(route, Mount):
            yield f"{route.path}/"
        elif inner := getattr(route, "original_router", None):  # what FastAPI includes, unflattened
            yield from served(inner.routes)
        else:
            yield route.path


@pytest.fixture
def application(make_registry, runtime, monkeypatch):
    monkeypatch.setenv("LAVIT_ADMIN_KEYS", "a" * 32)  # or there would be no administration
    return create_app(*make_registry(runtime))


def test_every_endpoint_is_in_the_table_and_the_table_has_no_other(application):
    paths = [policy.path for policy in POLICIES]
    assert len(set(paths)) == len(paths)
    assert set(served(application.routes)) == set(paths) - {"/admin/"}


def test_the_rules_of_every_endpoint():
    assert {policy.path for policy in POLICIES if policy.key == "none"} == OPEN
    assert {policy.path for policy in POLICIES if policy.key == "admin"} == ADMIN
    assert {policy.path for policy in POLICIES if policy.quiet} == QUIET
    assert {policy.path for policy in POLICIES if policy.work} == WORK


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        *((path, path) for path in ("/", "/classify", "/models", "/v2", "/docs", "/admin/models")),
        ("/v2/models/colours", V2),
        ("/v2/models/colours/infer", f"{V2}/infer"),
        ("/v2/models/infer/versions/1/infer", f"{V2}/versions/{{model_version}}/infer"),
        ("/v2/models/a b/ready", f"{V2}/ready"),
        ("/page/page.js", "/page/"),
        ("/page/line\nfeed", "/page/"),
        ("/docs/assets/swagger-ui.css", "/docs/assets/"),
        ("/admin/models/a/versions/1", "/admin/models/{name}/versions/{version}"),
        ("/admin/anything/else", "/admin/"),
    ],
)
def test_a_path_has_the_rules_of_its_endpoint(path, pattern):
    assert policy_of(path).path == pattern


@pytest.mark.parametrize(
    "path", ["/nowhere", "/page", "/healthz/", "/classify/", "/v2/models//infer", "/v2/infer", ""]
)
def test_what_is_no_endpoint_needs_a_key_and_is_no_work(path):
    policy = policy_of(path)
    assert (policy.path, policy.key, policy.quiet, policy.work) == ("", "service", False, False)
