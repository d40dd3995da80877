"""A head that another reader might take for something else is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavit_deploy.serving.errors import (
    MalformedRequestError,
    UnsupportedTransferCodingError,
    UnsupportedVersionError,
)
from lavit_deploy.serving.http.connections.framing import check_head


def check(*headers, version="1.1"):
    check_head(version, headers)


@pytest.mark.parametrize(
    "host",
    [
        *(b"example.org", b"example.org:8000", b"EXAMPLE.org", b"127.0.0.1:80", b"[::1]", b"x:"),
        *(b"[fe80::1%25eth0]:8000", b"my_pod.default.svc", b"", b" example.org\t", b"caf%C3%A9"),
    ],
)
def test_a_host_is_a_name_or_an_address_with_or_without_a_port(host):
    check((b"host", host))


@pytest.mark.parametrize(
    "host",
    [
        *(
            b"a b",
            b"a/b",
            b"a,b",
            b"a, a",
            b"user@a",
            b"a:b",
            b"a:80:80",
            b"http://a",
            b"[::1",
            b"a?",
        ),
        *(b"::1", b"[]", b'a"', b"a\\", b"caf\xc3\xa9", b"a#b", b"<a>"),
    ],
)
def test_what_can_be_no_host_is_refused(host):
    for version in ("1.0", "1.1"):
        with pytest.raises(MalformedRequestError, match="Host"):
            check((b"host", host), version=version)


def test_there_is_one_host():
    for version in ("1.0", "1.1"):
        with pytest.raises(MalformedRequestError, match="one Host, given 2"):
            check((b"host", b"a"), (b"x", b"y"), (b"host", b"a"), version=version)
    with pytest.raises(MalformedRequestError, match="has a Host, given none"):
        check((b"x", b"y"))
    check((b"x", b"y"), version="1.0")


@pytest.mark.parametrize("coding", [b"chunked", b"Chunked", b" chunked ", b", chunked"])
def test_chunks_are_taken(coding):
    check((b"host", b"a"), (b"transfer-encoding", coding))


@pytest.mark.parametrize(
    "codings",
    [
        *((b"gzip, chunked",), (b"gzip", b"chunked"), (b"deflate,gzip,chunked",), (b"x, chunked",)),
        *((b"chunked, chunked",), (b"identity, chunked",)),
    ],
)
def test_chunks_of_something_coded_are_not(codings):
    with pytest.raises(UnsupportedTransferCodingError, match="only chunked is taken"):
        check((b"host", b"a"), *((b"transfer-encoding", coding) for coding in codings))


@pytest.mark.parametrize("coding", [b"gzip", b"identity", b"xchunked", b"chunked, gzip", b"", b","])
def test_a_body_without_an_end_is_refused(coding):
    with pytest.raises(MalformedRequestError, match="must come last"):
        check((b"host", b"a"), (b"transfer-encoding", coding))


def test_chunks_are_of_http_1_1():
    with pytest.raises(MalformedRequestError, match="send a Content-Length"):
        check((b"host", b"a"), (b"transfer-encoding", b"chunked"), version="1.0")


@pytest.mark.parametrize("version", ["0.9", "2.0", "1.2"])
def test_another_http_is_refused(version):
    with pytest.raises(UnsupportedVersionError, match=r"HTTP/1\.1 is"):
        check((b"host", b"a"), version=version)


def refusal(*headers):
    try:
        check(*headers)
    except (MalformedRequestError, UnsupportedTransferCodingError) as error:
        return str(error)
    return ""


@given(st.binary(max_size=200))
def test_a_refusal_shows_little_and_nothing_that_could_forge_a_line(value):
    for text in (
        refusal((b"host", value)),
        refusal((b"host", b"a"), (b"transfer-encoding", value)),
    ):
        assert text.isprintable()
        shown = text.partition("given ")[2]
        assert not set(shown) & set(' "=')
        assert len(shown) <= 3 * 60 + 2
