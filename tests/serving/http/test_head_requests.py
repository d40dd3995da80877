"""HEAD gets what GET gets, without the body."""

import socket

import pytest


@pytest.mark.parametrize(
    "path", ["/", "/healthz", "/readyz", "/models", "/metrics", "/page/page.js"]
)
def test_head_has_the_headers_of_get_and_no_body(client, path):
    whole, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]
    assert "x-request-id" in head.headers


def test_head_of_what_has_no_get_is_405(client):
    response = client.head("/classify")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


def test_a_405_lists_head_where_there_is_get(client):
    response = client.delete("/healthz")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")


def test_head_is_counted_as_such_with_its_route(client):
    client.head("/healthz")
    assert 'lavit_requests_total{method="HEAD",reason="",route="/healthz",status="200"} 1.0' in (
        client.get("/metrics").text
    )


def test_a_connection_goes_on_after_head(serve, bundle_path):
    server = serve(bundle_path)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        request = b"%b / HTTP/1.1\r\nHost: x\r\n%b\r\n"
        client.sendall(request % (b"HEAD", b"") + request % (b"GET", b"Connection: close\r\n"))
        received = b""
        while data := client.recv(1 << 16):
            received += data
    head, between, get = received.partition(b"HTTP/1.1 200 OK\r\n")[2].partition(b"HTTP/1.1 200 OK")
    assert between
    assert head.endswith(b"\r\n\r\n")
    assert b"<!doctype html>" in get
