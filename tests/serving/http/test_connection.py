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

FEW_BYTES = HURRIED.replace(
    "connection.HEAD", "connection.LINGER_BYTES = 10_000_000\nconnection.HEAD"
)
FEW_BYTES = FEW_BYTES.replace("0.2", "30")

FEW_DESCRIPTORS = """\
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from lavit_deploy.serving.cli import entry
entry()
"""

GONE = "reset|Broken pipe|aborted"
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def server(module_server):
    return module_server


@pytest.fixture
def fresh_server(serve, bundle_path):
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


def test_what_is_no_http_is_answered_with_a_problem(fresh_server):
    for data, why in (
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "Invalid method"),  # TLS
        (b"BREW /pot HTTP/1.1\r\n\r\n", "Invalid method"),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: x\r\n\r\n", "names no path"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", "Invalid char in url"),
        (post(b"", b"Content-Length: 1", b"Content-Length: 2"), "Content-Length"),
        (post(b"", b"Content-Length: -1"), "Content-Length"),
        (post(b"", b"Content-Length: 1", b"Transfer-Encoding: chunked"), "Content-Length"),
        (post(b"zz\r\n", b"Transfer-Encoding: chunked"), "chunk size"),
    ):
        status, problem = ask(fresh_server, data)
        assert (status, problem["status"]) == (400, 400)
        assert problem["type"] == "urn:lavit:problem:malformed-request"
        assert why in problem["detail"]
        assert why in fresh_server.expect_message("not a request")
    assert alive(fresh_server)
    assert b'lavit_errors_total{reason="malformed-request"} 8.0' in fetch(fresh_server, b"/metrics")


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


def test_trailers_and_chunk_extensions_without_end_are_refused(fresh_server):
    for begin, more in ((b"0\r\n", b"X: a\r\n"), (b"5;", b"a" * 6)):
        with connect(fresh_server) as client:
            client.sendall(post(begin, b"Transfer-Encoding: chunked"))
            with pytest.raises(OSError, match=GONE):
                send_without_end(client, more * 100)
    assert "65,536 bytes" in fresh_server.expect_message("not a request")
    assert alive(fresh_server)


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
                client.sendall(
                    b"GET /healthz HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % b"\r\n".join(offer)
                )
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


def test_the_line_of_pipelined_requests_is_bounded_and_all_of_it_is_answered(server):
    with connect(server) as client:
        client.sendall(GET * 5000)
        found = [answer(client) for _ in range(18)]
        assert client.recv(1) == b""
    assert found[:17] == [(200, {"status": "ok"})] * 17
    assert (found[17][0], found[17][1]["detail"]) == (400, "more than 16 pipelined requests")
    assert alive(server)


def test_what_is_no_request_is_answered_after_those_that_are(server, picture):
    body = picture()
    good = post(body, b"Content-Length: %d" % len(body))
    for bad, status in (
        (b"JUNK\r\n\r\n", 400),
        (GET.replace(b"Host: x", b"Host: x\r\nHost: x"), 400),
        (chunked(body) + b"zz", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000, 431),
    ):
        with connect(server) as client:
            client.sendall(good + GET + bad + GET)
            found = [answer(client) for _ in range(3)]
            assert client.recv(1) == b""
        assert [status for status, _ in found] == [200, 200, status]
        assert found[0][1]["results"][0]["status"] == "ok"


def test_a_body_without_a_length_is_answered_and_so_is_its_request(server, picture):
    with connect(server) as client:
        client.sendall(post(picture()))
        first, second = answer(client), answer(client)
        assert client.recv(1) == b""
    assert (first[0], first[1]["type"]) == (400, "urn:lavit:problem:no-picture")
    assert (second[0], second[1]["type"]) == (400, "urn:lavit:problem:malformed-request")


@pytest.mark.parametrize(
    ("lines", "status", "kind"),
    [
        (b"POST / HTTP/1.1|Host: x|Transfer-Encoding: gzip, chunked", 501, "transfer-coding"),
        (b"POST / HTTP/1.1|Host: x|Transfer-Encoding: gzip", 400, "malformed-request"),
        (b"POST / HTTP/1.0|Host: x|Transfer-Encoding: chunked", 400, "malformed-request"),
        (b"GET /healthz HTTP/1.1|Host: x|Host: x", 400, "malformed-request"),
        (b"GET /healthz HTTP/1.0|Host: x|Host: y", 400, "malformed-request"),
        (b"GET /healthz HTTP/1.1|Host: x y", 400, "malformed-request"),
        (b"GET /healthz HTTP/1.1", 400, "malformed-request"),
        (b"GET http://x?y HTTP/1.1|Host: x", 400, "malformed-request"),
        (b"GET /healthz HTTP/2.0|Host: x", 505, "unsupported-version"),
        (b"GET /healthz HTTP/1.2|Host: x", 505, "unsupported-version"),
        (b"PRI * HTTP/2.0||SM", 505, "unsupported-version"),  # HTTP/2 without asking
    ],
)
def test_a_head_that_another_reader_might_take_otherwise_is_refused(server, lines, status, kind):
    found, problem = ask(server, lines.replace(b"|", b"\r\n") + b"\r\n\r\n")
    assert (found, problem["status"]) == (status, status)
    assert problem["type"].endswith(kind)


def test_the_forms_of_a_target_that_proxies_send_are_taken(server):
    for target in (b"http://x/healthz", b"http://x:80/healthz?a=b", b"/healthz?a=b"):
        with connect(server) as client:
            client.sendall(GET.replace(b"/healthz", target))
            assert answer(client) == (200, {"status": "ok"})
    with connect(server) as client:
        client.sendall(GET.replace(b"/healthz", b"http://x"))
        assert b"</html>" in read(client)


def test_an_early_answer_reaches_a_client_that_is_still_sending(server):
    length = b"Content-Length: 30000000"
    early = (
        (404, post(b"", length, path="/nowhere")),
        (415, post(b"", length).replace(b"image/png", b"text/plain")),
        (413, post(b"", b"Content-Length: 90000000")),
        (422, post(b"", length, path="/classify?top_k=0")),
    )
    for status, head in early:
        for version, more in ((b"1.0", b""), (b"1.1", b"Connection: close\r\n"), (b"1.1", b"")):
            with connect(server) as client:
                client.sendall(head.replace(b"1.1", version).replace(b"Host", more + b"Host"))
                for _ in range(30):
                    client.sendall(b"x" * 1_000_000)
                found, problem = answer(client)
            assert (found, problem["status"]) == (status, status)


def test_a_client_that_waits_to_send_its_body_is_told_that_the_connection_ends(server, picture):
    body = picture()
    waits = (b"Content-Length: %d" % len(body), b"Expect: 100-continue")
    with connect(server) as client:
        client.sendall(post(b"", *waits, path="/nowhere"))
        response = http.client.HTTPResponse(client)
        response.begin()
        assert (response.status, response.headers["Connection"]) == (404, "close")
        response.read()
        assert client.recv(1) == b""
    with connect(server) as client:
        for _ in range(2):  # the connection goes on
            client.sendall(post(b"", *waits))
            assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.sendall(body)
            assert answer(client)[0] == 200


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
        client.sendall(post(b"", b"Transfer-Encoding: chunked", path="/nowhere"))
        assert answer(client)[0] == 404
        with pytest.raises(OSError, match=GONE):
            send_without_end(client, b"5\r\nabcde\r\n")
    assert alive(hurried)


@pytest.mark.parametrize("code", [HURRIED, FEW_BYTES], ids=["time", "bytes"])
def test_what_nobody_reads_has_an_end_in_time_and_in_bytes(serve, bundle_path, code):
    server = serve(bundle_path, code=code)
    head = post(b"", b"Content-Length: 100000000000", path="/nowhere")
    for version in (b"1.0", b"1.1"):
        with connect(server) as client:
            client.sendall(head.replace(b"1.1", version))
            assert answer(client)[0] == 404
            client.sendall(b"x" * 9_000_000)  # less than either end
            with pytest.raises(OSError, match=GONE):
                send_without_end(client, b"x" * 100)
    assert alive(server)


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


@pytest.fixture
def poor(serve, bundle_path):
    """A server of 64 descriptors."""
    return serve(bundle_path, code=FEW_DESCRIPTORS)


def test_connections_that_rest_give_way_to_new_ones(poor):
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(200):
            clients.append(stack.enter_context(connect(poor)))
            clients[-1].sendall(GET)
            assert answer(clients[-1])[0] == 200
        assert b"</html>" in fetch(poor, b"/")  # a file is still read
        clients[-1].sendall(GET)
        assert answer(clients[-1])[0] == 200
        assert clients[0].recv(1) == b""
    assert poor.stop() == 0
    assert "Traceback" not in poor.rest()


def test_without_a_descriptor_a_connection_is_refused_and_nothing_else_suffers(poor, picture):
    body = picture()
    head = post(b"", b"Content-Length: %d" % len(body))
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(100):
            clients.append(stack.enter_context(connect(poor)))
            with contextlib.suppress(OSError):
                clients[-1].sendall(head)
        clients[0].sendall(body)
        assert answer(clients[0])[0] == 200
        refused = [found for client in clients[1:] if (found := refusal(client)) is not None]
    assert {found["type"] for found in refused} == {"urn:lavit:problem:overloaded"}
    assert alive(poor)
    assert b'lavit_errors_total{reason="overloaded"} %d.0' % len(refused) in fetch(
        poor, b"/metrics"
    )
    assert poor.stop() == 0
    assert "Traceback" not in poor.rest()


def refusal(client):
    """What is answered without a body; None: nothing is, or the connection is reset."""
    client.settimeout(0.05)
    try:
        status, found = answer(client)
    except (OSError, http.client.HTTPException):
        return None
    assert status == 503
    return found


def send_without_end(client, data):
    while True:
        client.sendall(data * 1000)


def read(client):
    response = http.client.HTTPResponse(client)
    response.begin()
    return response.read()


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
