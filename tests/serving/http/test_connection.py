"""What a client may do to a connection: heads without end, other protocols, answers not taken."""

import contextlib
import http.client
import json
import re
import socket

import pytest

from raw_client import RawClient

pytestmark = pytest.mark.slow

PATIENCE = 30.0

HURRIED = """\
from lavit_deploy.serving.http import connection
connection.HEAD_SECONDS = connection.LINGER_SECONDS = connection.TAKE_SECONDS = 0.2
from lavit_deploy.serving.cli import entry
entry()
"""

GONE = "reset|Broken pipe|aborted"
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def server(serve, bundle_path):
    return serve(bundle_path)


@pytest.fixture
def hurried(serve, bundle_path):
    """A server in which everything that has its time has little."""
    return serve(bundle_path, code=HURRIED)


def connect(server, receive_buffer=None):
    client = RawClient()
    if receive_buffer is not None:  # before it connects, or it is too late
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(PATIENCE)
    client.connect(("127.0.0.1", server.port))
    return client


def answer(client, method="GET"):
    """One answer on the connection: (status, JSON)."""
    response = http.client.HTTPResponse(client, method=method)
    response.begin()
    return response.status, json.loads(response.read())


def ask(server, data):
    """What is answered to some bytes, until the server closes: (status, JSON)."""
    with connect(server) as client:
        client.sendall(data)
        found = answer(client)
        assert client.recv(1) == b""
        return found


def post(body, *headers, path="/classify"):
    lines = [f"POST {path} HTTP/1.1".encode(), b"Host: x", b"Content-Type: image/png", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(*chunks):
    parts = (b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return post(b"".join(parts), b"Transfer-Encoding: chunked")


def alive(server):
    with connect(server) as client:
        client.sendall(GET)
        return answer(client) == (200, {"status": "ok"})


def test_what_is_no_http_is_answered_with_a_problem(server):
    for data, why in (
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "Invalid method"),  # TLS
        (b"BREW /pot HTTP/1.1\r\n\r\n", "Invalid method"),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: x\r\n\r\n", "invalid url"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", "Invalid char in url"),
        (post(b"", b"Content-Length: 1", b"Content-Length: 2"), "Content-Length"),
        (post(b"", b"Content-Length: -1"), "Content-Length"),
        (post(b"", b"Content-Length: 1", b"Transfer-Encoding: chunked"), "Content-Length"),
        (post(b"zz\r\n", b"Transfer-Encoding: chunked"), "chunk size"),
    ):
        status, problem = ask(server, data)
        assert (status, problem["status"]) == (400, 400)
        assert problem["type"] == "urn:lavit:problem:malformed-request"
        assert why in problem["detail"]
        assert why in server.expect_message("not a request")
    assert alive(server)
    assert b'lavit_errors_total{reason="malformed-request"} 8.0' in fetch(server, b"/metrics")


def test_a_head_without_end_is_answered_with_431(server):
    for head in (
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 100_000,
        b"GET /healthz HTTP/1.1\r\n" + b"X: a\r\n" * 20_000 + b"\r\n",
        b"GET /healthz HTTP/1.1\r\n" + b"a" * 100_000,
    ):
        with connect(server) as client:
            client.sendall(head)
            status, problem = answer(client)
        assert status == 431
        assert problem["type"] == "urn:lavit:problem:head-too-large"
        assert "65,536 bytes" in problem["detail"]
    assert alive(server)


def test_trailers_and_chunk_extensions_without_end_are_refused(server):
    for begin, more in ((b"0\r\n", b"X: a\r\n"), (b"5;", b"a" * 6)):
        with connect(server) as client:
            client.sendall(post(begin, b"Transfer-Encoding: chunked"))
            with pytest.raises(OSError, match=GONE):
                send_without_end(client, more)
    assert "65,536 bytes" in server.expect_message("not a request")
    assert alive(server)


def test_a_trailer_is_no_header(server, picture):
    body = picture()
    with connect(server) as client:
        client.sendall(chunked(body) + b"0\r\nX-Request-ID: smuggled\r\n\r\n")
        status, found = answer(client)
    assert status == 200
    assert found["request_id"] != "smuggled"


def test_an_offered_protocol_is_declined_and_the_body_read(server, picture):
    body = picture((0, 0, 255))
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:9], body[9:], b""))
    for protocol in (b"h2c", b"websocket", b"anything"):
        offer = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: " + protocol)
        for data in (
            post(body, b"Content-Length: %d" % len(body), *offer),
            post(chunks, b"Transfer-Encoding: chunked", *offer),
        ):
            with connect(server) as client:
                middle = len(data) - 20
                client.sendall(data[:middle])  # two reads of the server, mostly
                client.sendall(data[middle:])
                status, found = answer(client)
                assert status == 200
                assert found["results"][0]["predictions"][0]["label"] == "blue"
                client.sendall(b"GET /healthz HTTP/1.1\r\n%b\r\n\r\n" % b"\r\n".join(offer))
                assert answer(client) == (200, {"status": "ok"})
                client.sendall(GET)  # the connection goes on
                assert answer(client) == (200, {"status": "ok"})


def test_pipelined_requests_are_answered_in_order(server, picture):
    body = picture()
    last = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with connect(server) as client:
        client.sendall(post(body, b"Content-Length: %d" % len(body)) + GET + last)
        answers = receive_all(client).split(b"HTTP/1.1 200 OK\r\n")
    assert [b"results" in text for text in answers] == [False, True, False, False]
    assert all(text.endswith(b'{"status":"ok"}') for text in answers[2:])


def test_the_line_of_pipelined_requests_is_bounded(server):
    with connect(server) as client:
        client.sendall(GET * 5000)
        received = receive_all(client)
    assert len(re.findall(rb"HTTP/1\.1 200", received)) < 50
    assert alive(server)


def test_a_head_that_does_not_end_is_answered_with_408(hurried):
    status, problem = ask(hurried, b"GET /healthz HTTP/1.1\r\nX-Slow:")
    assert status == 408
    assert problem["type"] == "urn:lavit:problem:head-timeout"
    with connect(hurried) as client:
        client.sendall(GET)
        assert answer(client)[0] == 200
        client.sendall(b"\r\n")  # allowed before a request, and none
        assert answer(client)[0] == 408
    assert alive(hurried)


def test_a_body_after_its_answer_has_an_end(hurried):
    with connect(hurried) as client:
        client.sendall(b"POST /nowhere HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert answer(client)[0] == 404
        with pytest.raises(OSError, match=GONE):
            send_without_end(client, b"5\r\nabcde\r\n")
    assert alive(hurried)


def test_a_client_that_takes_no_answer_is_left(hurried):
    path = re.search(rb'src="([^"]+bundle[^"]*\.js)"', fetch(hurried, b"/docs"))[1]
    size = len(fetch(hurried, path))
    asked = 12  # more megabytes than the system keeps for a connection
    with connect(hurried, receive_buffer=2048) as client:
        client.sendall(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path * asked)
        client.recv(100)
        metrics = b""
        while b"lavit_requests_in_flight 1.0" not in metrics:  # the one that asks
            metrics = fetch(hurried, b"/metrics")
        assert len(receive_all(client)) < (asked - 1) * size


def send_without_end(client, data):
    while True:
        client.sendall(data * 1000)


def receive_all(client):
    """What comes until the server closes, or resets, the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(1 << 16):
            received += data
    return received


def fetch(server, path):
    with connect(server) as client:
        client.sendall(b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path)
        response = http.client.HTTPResponse(client)
        response.begin()
        return response.read()
