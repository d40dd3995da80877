"""The parts of uvicorn that are not public and that `connection` builds on, checked before use.

uvicorn has no promise for them: a later version may rename one, and the first request to need it
would fail under load. So versions are bounded, and every name is looked up at the start.
"""

from __future__ import annotations

import inspect
import re
from importlib.metadata import version

from lavit_deploy.serving.errors import IncompatiblePackageError

OLDEST, BELOW = (0, 34), (0, 55)
"""Versions whose internals were read; as the bounds of the dependency in pyproject.toml."""

METHODS = {
    "_unset_keepalive_if_required": (),
    "connection_made": ("transport",),
    "connection_lost": ("exc",),
    "data_received": ("data",),
    "on_message_begin": (),
    "on_url": ("url",),
    "on_header": ("name", "value"),
    "on_headers_complete": (),
    "on_body": ("body",),
    "on_message_complete": (),
    "on_response_complete": (),
    "pause_writing": (),
    "shutdown": (),
    "timeout_keep_alive_handler": (),
}
"""Methods of uvicorn's protocol that are called or extended, and what they take."""

ATTRIBUTES = frozenset(
    {
        *("app_state", "client", "connections", "cycle", "expect_100_continue", "flow", "headers"),
        "loop",
        *("parser", "pipeline", "server_state", "timeout_keep_alive", "timeout_keep_alive_task"),
        *("transport", "url"),
    }
)
"""What it keeps of a connection and of the request that comes, once one has begun."""

PARTS = {
    "RequestResponseCycle": (
        *("disconnected", "keep_alive", "message_event", "response_complete", "response_started"),
    ),
    "FlowControl": ("write_paused",),
    "ServerState": ("default_headers",),
}
"""What is read of the objects behind those attributes."""

SERVER_METHODS = {
    "startup": ("sockets",),
    "shutdown": ("sockets",),
    "capture_signals": (),
    "handle_exit": ("sig", "frame"),
}
"""Methods of uvicorn's server that `process.server` extends."""


def check_uvicorn() -> None:
    """See that the installed uvicorn is one that `connection` was written for.

    Raises:
        IncompatiblePackageError: another version, or one of the names is not there.
    """
    installed = version("uvicorn")
    wanted = ">={}.{},<{}.{}".format(*OLDEST, *BELOW)
    numbers = tuple(int(part) for part in re.findall(r"\d+", installed)[:2])
    if not OLDEST <= numbers < BELOW:
        fault = "is not a version that was tried"
    elif missing := missing_internals():
        fault = f"has no {', '.join(missing)}"
    else:
        return
    raise IncompatiblePackageError(
        f"uvicorn {installed} {fault}; this version of lavit-deploy needs uvicorn{wanted}"
    )


def missing_internals() -> list[str]:
    """What `connection` uses and the installed uvicorn does not have, or has in another form."""
    try:
        from uvicorn.protocols.http import flow_control, httptools_impl
        from uvicorn.server import Server, ServerState
    except ImportError as error:
        return [error.name or str(error)]
    protocol = httptools_impl.HttpToolsProtocol
    cycle = httptools_impl.RequestResponseCycle
    kept = _stored(protocol)
    parts = {
        "RequestResponseCycle": _stored(cycle),
        "FlowControl": _stored(flow_control.FlowControl),
        "ServerState": _stored(ServerState),
    }
    missing = [f"HttpToolsProtocol.{name}" for name in sorted(ATTRIBUTES - kept)]
    missing += _unlike(protocol, METHODS) + _unlike(Server, SERVER_METHODS)
    for part, names in PARTS.items():
        missing += [f"{part}.{name}" for name in names if name not in parts[part]]
    return missing


def _stored(of: type) -> set[str]:
    """Attributes that a class has, or that its methods set or use on instances."""
    found = {*dir(of)}
    for function in vars(of).values():
        if inspect.isfunction(function):
            found.update(function.__code__.co_names)
    return found


def _unlike(of: type, methods: dict[str, tuple[str, ...]]) -> list[str]:
    """Methods that are missing or take something else."""
    return [
        f"{of.__name__}.{name}({', '.join(wanted)})"
        for name, wanted in methods.items()
        if not callable(method := getattr(of, name, None))
        or tuple(inspect.signature(method).parameters)[1:] != wanted
    ]
