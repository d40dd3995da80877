"""The service below a prefix of somebody else's host, such as https://example.org/lavit/.

Some proxies take the prefix off a path, some leave it: either way the rest of the service sees a
path without it. What it says to clients is relative (pages, redirects), or has the prefix.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from lavit_deploy.common.errors import UsageError
from lavit_deploy.serving.http.route_policy import POLICIES

STATE = "root_path"
"""Where a request's state has the prefix."""


class RootPath:
    """ASGI middleware, the outermost one of the application: takes the prefix off.

    Args:
        app: what answers.
        prefix: where the service is, such as "/lavit"; empty: at the root, or where the server
            that runs the application says (Ray's `route_prefix`).
    """

    def __init__(self, app: ASGIApp, *, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (prefix := scope.get("root_path") or self._prefix):
            path = without_prefix(scope["path"], prefix)
            state = {**scope.get("state", {}), STATE: prefix}
            scope = {**scope, "path": path, "root_path": "", "state": state}
        await self._app(scope, receive, send)


def without_prefix(path: str, prefix: str) -> str:
    """A path as the service names it; one that has no prefix has lost it at a proxy."""
    if path == prefix:
        return "/"
    return path[len(prefix) :] if prefix and path.startswith(f"{prefix}/") else path


def check_prefix(prefix: str) -> None:
    """Refuse a prefix of which nobody could tell whether it is there.

    Raises:
        UsageError: the service's own paths begin with it.
    """
    if prefix and any(f"{policy.path}/".startswith(f"{prefix}/") for policy in POLICIES):
        raise UsageError(
            f"--root-path {prefix} is a path of the service itself; choose another one"
        )


def relative_redirect(path: str, location: str) -> str:
    """A redirect that holds under any prefix and host.

    Args:
        path: that was asked for.
        location: the same path with a slash more or less at its end, as an absolute URL.
    """
    url = urlsplit(location)
    last = url.path.rstrip("/").rpartition("/")[2]
    query = f"?{url.query}" if url.query else ""
    if url.path.endswith("/"):
        return f"./{last}/{query}"
    up = len(path) - len(path.rstrip("/"))
    return f"{'../' * up}{last}{query}"
