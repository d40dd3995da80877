"""Proxies that are named are believed, and nothing of a header gets into the log but an address."""

import asyncio

import pytest
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from lavit_deploy.serving.http.proxies.forwarded import client_address, trusted

NAMED = ("10.0.0.0/8", "192.0.2.7", "2001:db8::/32")


def seen(peer, forwarded, networks):
    """What the log says of a request: client and scheme."""
    found = {}

    async def application(scope, receive, send):
        found.update(scope)

    headers = [(b"x-forwarded-for", forwarded), (b"x-forwarded-proto", b"https")]
    scope = {"type": "http", "client": (peer, 5), "scheme": "http", "headers": headers}
    middleware = ProxyHeadersMiddleware(application, trusted_hosts=trusted(networks))
    asyncio.run(middleware(scope, None, None))
    return client_address(found["client"]), found["scheme"]


@pytest.mark.parametrize(
    "peer", ["10.1.2.3", "192.0.2.7", "2001:db8::1", "::ffff:10.1.2.3", "::ffff:192.0.2.7"]
)
def test_a_proxy_that_is_named_is_believed(peer):
    assert seen(peer, b"203.0.113.9", NAMED) == ("203.0.113.9", "https")


@pytest.mark.parametrize("peer", ["11.0.0.1", "192.0.2.8", "2001:db9::1", "::ffff:11.0.0.1", "::1"])
def test_nobody_else_is(peer):
    shown = peer.removeprefix("::ffff:")
    assert seen(peer, b"203.0.113.9", NAMED) == (shown, "http")
    assert seen(peer, b"203.0.113.9", ()) == (shown, "http")


def test_the_client_is_the_last_that_is_no_proxy_of_ours():
    chain = b"9.9.9.9, 203.0.113.9, 10.0.0.5, 192.0.2.7"
    assert seen("10.1.2.3", chain, NAMED)[0] == "203.0.113.9"
    assert seen("10.1.2.3", b"2001:db9::7", NAMED)[0] == "2001:db9::7"
    assert seen("10.1.2.3", b"203.0.113.9:443", NAMED)[0] == "203.0.113.9"


def test_everybody_is_believed_where_that_is_asked_for():
    assert trusted(("10.0.0.0/8", "*")) == ["*"]
    assert seen("11.0.0.1", b"203.0.113.9", ("*",))[0] == "203.0.113.9"


@pytest.mark.parametrize(
    "forged",
    [b"a b", b'"x"', b"x status=200", b"1.2.3.4 reason=x", b"\xc3\xa9", b"_hidden", b"x" * 1000],
)
def test_what_is_no_address_is_not_logged(forged):
    assert seen("10.1.2.3", forged, NAMED)[0] == "unknown"


def test_a_connection_without_an_address_has_none():
    assert client_address(None) == "-"
