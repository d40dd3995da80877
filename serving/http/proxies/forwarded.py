"""Which proxies are believed when they say whose request they pass on.

The addresses themselves are read by uvicorn's `ProxyHeadersMiddleware`: from X-Forwarded-For, from
the right, up to the first that is no proxy of ours; the scheme from X-Forwarded-Proto.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

EVERYBODY = "*"


def trusted(networks: Collection[str]) -> list[str]:
    """Addresses of proxies, as uvicorn takes them.

    A socket that listens on both protocols shows IPv4 addresses as IPv6 ones (RFC 4291, 2.5.5.2).

    Args:
        networks: addresses, networks, or `EVERYBODY`.
    """
    if EVERYBODY in networks:
        return [EVERYBODY]
    mapped = [
        f"::ffff:{network.network_address}/{96 + network.prefixlen}"
        for network in map(ipaddress.ip_network, networks)
        if network.version == 4
    ]
    return [*networks, *mapped]


def client_address(client: tuple[str, int] | None) -> str:
    """Whose request it is, for the log: an address, whatever a header may say.

    Args:
        client: host and port, as a server or `ProxyHeadersMiddleware` puts them into the scope.
    """
    if client is None:
        return "-"
    try:
        address = ipaddress.ip_address(client[0])
    except ValueError:
        return "unknown"  # as RFC 7239 calls it
    return str(getattr(address, "ipv4_mapped", None) or address)
