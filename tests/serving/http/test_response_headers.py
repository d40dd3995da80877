"""What every answer tells browsers, and which answers are packed."""

import gzip
import json

import pytest

PNG = {"Content-Type": "image/png"}


@pytest.mark.parametrize("path", ["/", "/docs", "/page/page.js", "/healthz", "/nowhere", "/models"])
def test_every_answer_tells_browsers_to_be_careful(client, path):
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "default-src" in headers["content-security-policy"]


def test_long_answers_are_packed_for_clients_that_unpack_them_and_for_no_others(client, picture):
    files = [("files", (f"{'name' * 50}{number}.png", picture())) for number in range(4)]
    with client.stream(
        "POST", "/classify", files=files, headers={"Accept-Encoding": "gzip"}
    ) as packed:
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.headers["vary"] == "Accept-Encoding"
        assert len(json.loads(gzip.decompress(b"".join(packed.iter_raw())))["results"]) == 4
    plain = client.post("/classify", files=files, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert len(plain.json()["results"]) == 4


def test_a_short_answer_is_not_packed(client):
    answer = client.get("/healthz", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in answer.headers
    assert answer.json() == {"status": "ok"}


def test_headers_of_its_own_are_kept(client):
    own = client.get("/").headers["content-security-policy"]
    assert "script-src 'self'" in own
    assert own != client.get("/healthz").headers["content-security-policy"]
