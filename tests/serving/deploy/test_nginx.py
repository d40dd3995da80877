"""Behind a real nginx: with its defaults, and with the file in deploy/."""

import collections
import contextlib
import http.client
import json
from pathlib import Path

import pytest

from nginx import free_port, needs_nginx, nginx

pytestmark = [pytest.mark.slow, needs_nginx]

PATIENCE = 60.0
ROOT = Path(__file__).parents[3]
KEY = "a" * 32
TRIES = 10

REFUSING = """\
from lavit_deploy.serving.errors import OverloadedError
from lavit_deploy.serving.http import admission

admits = admission.Admission.refusal

def refusal(self, headers):
    return OverloadedError("asked for it") if "x-refuse" in headers else admits(self, headers)

admission.Admission.refusal = refusal
from lavit_deploy.serving.cli import entry
entry()
"""
"""A server that refuses what says so."""


@pytest.fixture
def behind(tmp_path):
    """Puts nginx before a server, to which paths below `prefix` come."""
    with contextlib.ExitStack() as stack:

        def start(server, *, location="", prefix="/", kept=False):
            port, number = free_port(), len(list(tmp_path.glob("nginx*")))
            upstream = f"http://127.0.0.1:{server.port}{'' if kept else '/'}"
            text = (
                f"server {{ listen 127.0.0.1:{port}; client_max_body_size 0; "
                f"location {prefix} {{ proxy_pass {upstream}; {location} }} }}"
            )
            stack.enter_context(nginx(tmp_path / f"nginx{number}", text, port))
            return port

        yield start


def ask(port, method, path, body=b"", **headers):
    """One request on a connection of its own: (status, headers, body)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    names = {name.replace("_", "-"): text for name, text in headers.items()}
    try:
        connection.request(method, path, body, {"Content-Type": "image/png", **names})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    "directives",
    ["", "proxy_request_buffering off;", "proxy_request_buffering off; proxy_http_version 1.1;"],
    ids=["defaults", "unbuffered", "1.1"],
)
def test_an_early_answer_is_never_made_502(serve, bundle_path, tmp_path, behind, directives):
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    locked = behind(serve(bundle_path, "--api-keys", str(keys)), location=directives)
    other = behind(serve(bundle_path, code=REFUSING), location=directives)
    size = 20_000_000
    early = {
        401: (locked, "/classify", {}),
        404: (other, "/nowhere", {}),
        413: (other, "/classify", {}),
        415: (other, "/classify", {"Content_Type": "text/plain"}),
        422: (other, "/classify?top_k=0", {}),
        503: (other, "/classify", {"X_Refuse": "yes"}),
    }
    for status, (port, path, headers) in early.items():
        body = bytes(size * 2 if status == 413 else size)
        found = collections.Counter()
        for _ in range(TRIES):
            found[ask(port, "POST", path, body, **headers)[0]] += 1
        assert found == {status: TRIES}


@pytest.mark.parametrize("kept", [True, False], ids=["left on", "taken off"])
def test_below_a_prefix_everything_is_found(serve, bundle_path, behind, picture, kept):
    server = serve(bundle_path, "--root-path", "/deep/lavit")
    port = behind(server, prefix="/deep/lavit/", kept=kept)
    assert_found(port, "/deep/lavit", picture())
    schema = json.loads(ask(port, "GET", "/deep/lavit/openapi.json")[2])
    assert schema["servers"] == [{"url": "/deep/lavit"}]


def test_a_prefix_that_is_taken_off_need_not_be_known(serve, bundle_path, behind, picture):
    assert_found(behind(serve(bundle_path), prefix="/a/b/"), "/a/b", picture())


def assert_found(port, prefix, picture):
    assert ask(port, "GET", f"{prefix}/healthz")[0] == 200
    assert ask(port, "POST", f"{prefix}/classify", picture)[0] == 200
    for page, links in (
        ("/", ("page/page.js", "page/style.css", "docs", "metrics")),
        ("/docs", ()),
    ):
        status, _, body = ask(port, "GET", prefix + page)
        assert status == 200
        assert b'="/page' not in body
        for link in links:
            assert f'"{link}"'.encode() in body
            assert ask(port, "GET", f"{prefix}/{link}")[0] == 200
    for path, target in (
        ("/docs/", "../docs"),
        ("/page", "./page/"),
        ("/classify/", "../classify"),
    ):
        status, headers, _ = ask(port, "POST" if "classify" in path else "GET", prefix + path)
        assert (status, headers["Location"]) == (307, target)


def test_a_forwarded_address_is_believed_of_proxies_that_are_named_alone(
    serve, bundle_path, behind
):
    forwards = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"
    forged = "9.9.9.9, 203.0.113.7"
    for options, client in (
        ((), "127.0.0.1"),
        (("--forwarded-allow-ips", "10.0.0.0/8"), "127.0.0.1"),
        (("--forwarded-allow-ips", "127.0.0.1,10.0.0.0/8"), "203.0.113.7"),
        (("--forwarded-allow-ips", "*"), "9.9.9.9"),
    ):
        server = serve(bundle_path, *options)
        # The last of the list is nginx's own client, 127.0.0.1 again, which is trusted or not.
        ask(behind(server, location=forwards), "GET", "/models", X_Forwarded_For=forged)
        assert server.expect_message("GET /models") == "GET /models 200"
        assert server.last["client"] == client


def test_the_file_in_deploy_serves_as_it_is(serve, bundle_path, tmp_path, picture):
    server = serve(bundle_path, "--forwarded-allow-ips", "127.0.0.1")
    port = free_port()
    text = (ROOT / "deploy" / "nginx" / "lavit.conf").read_text()
    changed = text.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
    changed = changed.replace("listen 80;", f"listen 127.0.0.1:{port};")
    with nginx(tmp_path / "nginx", changed, port):
        for _ in range(3):
            status, headers, _ = ask(
                port, "POST", "/classify", picture(), X_Forwarded_For="203.0.113.7"
            )
            assert status == 200
        assert server.expect_message("POST /classify") == "POST /classify 200"
        assert server.last["client"] == "203.0.113.7"
        assert len(headers["X-Request-ID"]) == 32
        assert ask(port, "POST", "/classify", bytes(31_000_000))[0] == 415
        assert ask(port, "POST", "/nowhere", bytes(31_000_000))[0] == 404
