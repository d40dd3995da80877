"""Work that is refused by its head gets the application's answer, and its connection goes on."""

import http.client
import re
import socket
import time

import pytest

from raw_client import RawClient

pytestmark = pytest.mark.slow

PATIENCE = 30.0

REFUSING = """\
from lavit_deploy.serving.http import connection
from lavit_deploy.serving.http import admission
from lavit_deploy.serving.errors import OverloadedError

admits = admission.Admission.refusal

def refusal(self, headers):
    return OverloadedError("asked for it") if "x-refuse" in headers else admits(self, headers)

admission.Admission.refusal = refusal
connection.HEAD_SECONDS = connection.LINGER_SECONDS = connection.TAKE_SECONDS = 0.2
from lavit_deploy.serving.cli import entry
entry()
"""
"""A server that refuses what says so."""

REFUSE = b"X-Refuse: yes"
KEY = b"X-API-Key: 0123456789abcdef"
ROUTES = ("/classify", "/classify?top_k=2", "/v2/models/colours/infer")


@pytest.fixture(scope="module")
def server(module_serve, module_bundle_path):
    return module_serve(module_bundle_path, code=REFUSING)


@pytest.fixture(scope="module")
def locked(module_serve, module_bundle_path, tmp_path_factory):
    """The same, with a key: it is the application that refuses."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("0123456789abcdef\n")
    return module_serve(module_bundle_path, "--api-keys", str(keys), code=REFUSING)


def connect(server):
    client = RawClient()
    client.settimeout(PATIENCE)
    client.connect(("127.0.0.1", server.port))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def head(*headers, path="/classify", method="POST", version="1.1"):
    lines = (f"{method} {path} HTTP/{version}".encode(), b"Host: x", b"Content-Type: image/png")
    return b"\r\n".join([*lines, *headers]) + b"\r\n\r\n"


def post(body, *headers, **target):
    return head(b"Content-Length: %d" % len(body), *headers, **target) + body


def answer(client):
    """One answer on the connection: (status, headers, body)."""
    response = http.client.HTTPResponse(client)
    response.begin()
    return response.status, response.headers, response.read()


def in_pieces(client, *pieces):
    for piece in pieces:
        client.sendall(piece)
        time.sleep(0.05)  # so that the server reads them one by one


def send_without_end(client, data):
    while True:
        client.sendall(data * 1000)


def count(server, pattern):
    with connect(server) as client:
        client.sendall(head(path="/metrics", method="GET"))
        metrics = answer(client)[2].decode()
    return sum(float(value) for value in re.findall(rf"^{pattern} (\S+)$", metrics, re.MULTILINE))


def is_served(client, body):
    client.sendall(post(body))
    return answer(client)[0] == 200


@pytest.mark.parametrize("path", ROUTES)
def test_the_answer_is_the_one_of_the_application(server, locked, picture, path):
    found = []
    for each in (server, locked):
        with connect(each) as client:
            client.sendall(post(picture(), REFUSE, KEY, b"X-Request-ID: abc", path=path))
            status, headers, body = answer(client)
        for name in ("Date", "Server-Timing"):  # of each answer its own
            assert headers[name]
            del headers[name]
        found.append((status, sorted((name.lower(), text) for name, text in headers.items()), body))
    assert found[0] == found[1]
    assert found[0][0] == 503


def test_what_brings_no_id_gets_one_of_its_own(server, picture):
    with connect(server) as client:
        ids = set()
        for _ in range(2):
            client.sendall(post(picture(), REFUSE))
            ids.add(answer(client)[1]["X-Request-ID"])
    assert len(ids) == 2


def test_the_connection_goes_on_however_the_body_comes(server, picture):
    body = picture()
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    with connect(server) as client:
        for pieces in (
            (post(body, REFUSE),),
            (post(b"", REFUSE),),
            (head(REFUSE, b"Content-Length: %d" % len(body)), body),
            (head(REFUSE, b"Content-Length: %d" % len(body)), body[:9], body[9:]),
            (head(REFUSE, b"Transfer-Encoding: chunked") + chunked,),
            (head(REFUSE, b"Transfer-Encoding: chunked"), chunked[:5], chunked[5:]),
        ):
            in_pieces(client, *pieces)
            assert answer(client)[0] == 503
            assert is_served(client, body)


def test_a_refused_connection_rests_like_any_other(server, picture):
    body = picture()
    for pieces in (
        (post(body, REFUSE),),
        (head(REFUSE, b"Content-Length: %d" % len(body)), body),
    ):
        with connect(server) as client:
            in_pieces(client, *pieces)
            assert answer(client)[0] == 503
            time.sleep(0.5)  # more than the time for a head
            assert is_served(client, body)


def test_the_rest_of_a_refused_body_has_an_end(server):
    with connect(server) as client:
        client.sendall(head(REFUSE, b"Content-Length: 1000"))
        assert answer(client)[0] == 503
        assert client.recv(1) == b""


def test_a_broken_body_after_the_refusal_is_answered_no_more(server):
    with connect(server) as client:
        client.sendall(head(REFUSE, b"Transfer-Encoding: chunked") + b"zz\r\n")
        assert answer(client)[0] == 503
        assert client.recv(1) == b""


def test_pipelined_requests_keep_their_order(server, picture):
    body = picture()
    with connect(server) as client:
        for refused in ([True, False, True], [False, True, False]):
            client.sendall(b"".join(post(body, *([REFUSE] if no else [])) for no in refused))
            assert [answer(client)[0] == 503 for _ in refused] == refused


def test_a_client_that_takes_no_refusals_is_left(server):
    with connect(server) as client, pytest.raises(OSError, match=r"reset|Broken pipe|aborted"):
        send_without_end(client, post(b"", REFUSE))
    with connect(server) as client:
        client.sendall(head(path="/readyz", method="GET"))
        assert answer(client)[0] == 200


@pytest.mark.parametrize(
    "request_head",
    [
        head(REFUSE, b"Connection: close", b"Content-Length: 0"),
        head(REFUSE, b"Content-Length: 0", version="1.0"),
    ],
)
def test_a_connection_that_is_to_end_does(server, request_head):
    with connect(server) as client:
        client.sendall(request_head)
        assert answer(client)[0] == 503
        assert client.recv(1) == b""


def test_a_client_that_waits_to_send_its_body_is_refused_before_it_does(server, picture):
    with connect(server) as client:
        client.sendall(head(REFUSE, b"Content-Length: 1000", b"Expect: 100-continue"))
        assert answer(client)[0] == 503


def test_what_is_no_work_is_never_refused(server):
    with connect(server) as client:
        client.sendall(head(REFUSE, path="/readyz", method="GET"))
        assert answer(client)[0] == 200
        client.sendall(post(b"", REFUSE, path="/classifier"))
        assert answer(client)[0] == 404
        client.sendall(head(REFUSE, method="GET"))
        assert answer(client)[0] == 405


def test_refusals_are_counted(server, picture):
    labels = 'method="POST",reason="overloaded",route="/classify",status="503"'
    counters = (
        rf"lavit_requests_total{{{labels}}}",
        r'lavit_errors_total{reason="overloaded"}',
        r'lavit_request_seconds_count{route="/classify"}',
    )
    before = [count(server, counter) for counter in counters]
    with connect(server) as client:
        for _ in range(3):
            client.sendall(post(picture(), REFUSE))
            answer(client)
    found = [count(server, counter) for counter in counters]
    assert [now - then for now, then in zip(found, before, strict=True)] == [3, 3, 3]
    assert count(server, "lavit_requests_in_flight") == 1  # the one that asks


def test_a_key_is_asked_for_before_anything_is_refused(locked, picture):
    with connect(locked) as client:
        client.sendall(post(picture(), REFUSE))
        assert answer(client)[0] == 401
        client.sendall(post(picture(), REFUSE, KEY))
        assert answer(client)[0] == 503
