"""Addresses: bound before a model is loaded, shared between workers, shown to people."""

from __future__ import annotations

import socket
import sys

from lavit_deploy.serving.errors import AddressError


def listening_socket(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A bound TCP socket, so that a taken port is known before a model is loaded.

    Args:
        host: name or address.
        port: TCP port; 0: any free one.
        shared: other sockets of this user may be bound to the same port; the kernel spreads
            connections over those of them that listen.

    Raises:
        AddressError: the name is unknown, or the port is taken or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            if sys.platform != "win32":  # there it would let two servers share the port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise AddressError(f"cannot listen on {host} port {port}: {reason}") from None
    return listener


def reserved_socket(host: str, port: int) -> socket.socket:
    """A socket that never listens, and keeps its port for the workers of this service.

    Raises:
        AddressError: as `listening_socket`; also where another service shares the port already.
    """
    with listening_socket(host, port) as alone:  # refused where anybody has the port
        port = alone.getsockname()[1]
    return listening_socket(host, port, shared=True)


def url(host: str, port: int) -> str:
    """The address a person types."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host)  # noqa: S104 - shown, not bound
    if shown is None:
        shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"
