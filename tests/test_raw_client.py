import http.client
import socket

from raw_client import RawClient


def test_two_answers_in_one_segment_are_both_read():
    with socket.create_server(("127.0.0.1", 0)) as server, RawClient() as client:
        client.settimeout(5)
        client.connect(server.getsockname())
        there, _ = server.accept()
        with there:
            answer = b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\nok"
            there.sendall(answer % 200 + answer % 503)
            for status in (200, 503):
                response = http.client.HTTPResponse(client)
                response.begin()
                assert (response.status, response.read()) == (status, b"ok")
        assert client.recv(1) == b""
        assert client.fileno() >= 0
    assert client.fileno() == -1
