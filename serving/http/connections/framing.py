"""What a head must say before anybody acts on it: the version, the host, how the body is framed.

llhttp, the parser, has seen to the rest: the characters of a head, lengths that contradict each
other, and that chunks come last where there are any.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

from lavit_deploy.serving.errors import (
    MalformedRequestError,
    UnsupportedTransferCodingError,
    UnsupportedVersionError,
)

_HOST = re.compile(rb"(?:[A-Za-z0-9._~%!$&'()*+;=-]*|\[[A-Za-z0-9.:_~%-]+\])(?::[0-9]*)?")
"""A host and perhaps a port (RFC 3986, 3.2.2), without the comma of those that are several."""


def check_head(version: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse a head that another reader of it might take for something else.

    Args:
        version: of HTTP, such as "1.1".
        headers: names in lower case, and values.

    Raises:
        UnsupportedVersionError: neither HTTP/1.1 nor HTTP/1.0.
        MalformedRequestError: no host, several, or none that could be one (RFC 9112, 3.2); a body
            without an end: a transfer coding that is not chunked, or before there were any (6.1).
        UnsupportedTransferCodingError: chunks of something that is coded once more.
    """
    if version not in {"1.0", "1.1"}:
        raise UnsupportedVersionError(f"HTTP/{version} is not spoken here; HTTP/1.1 is")
    hosts, codings = [], []
    for name, value in headers:
        if name == b"host":
            hosts.append(value)
        elif name == b"transfer-encoding":
            codings.append(value)
    _check_host(version, hosts)
    if codings:
        _check_codings(version, b",".join(codings))


def _check_host(version: str, hosts: list[bytes]) -> None:
    if len(hosts) > 1:
        raise MalformedRequestError(f"a request has one Host, given {len(hosts)}")
    if not hosts and version != "1.0":
        raise MalformedRequestError("a request of HTTP/1.1 has a Host, given none")
    if hosts and not _HOST.fullmatch(hosts[0].strip(b" \t")):
        raise MalformedRequestError(
            f"Host: must be a name or an address, with or without a port, given {_shown(hosts[0])}"
        )


def _check_codings(version: str, given: bytes) -> None:
    if version == "1.0":
        raise MalformedRequestError("HTTP/1.0 has no Transfer-Encoding; send a Content-Length")
    codings = [coding for part in given.split(b",") if (coding := part.strip(b" \t").lower())]
    if not codings or codings[-1] != b"chunked":
        raise MalformedRequestError(
            f"Transfer-Encoding: chunked must come last, given {_shown(given)}"
        )
    if codings != [b"chunked"]:
        raise UnsupportedTransferCodingError(
            f"Transfer-Encoding: only chunked is taken, given {_shown(given)}"
        )


def _shown(given: bytes) -> str:
    return repr(quote(given[:60], safe="/:,[]@"))
