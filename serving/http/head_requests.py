"""HEAD: answered like GET, without the body (RFC 9110, 9.3.2). Monitors and `curl -I` ask so."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadRequests:
    """ASGI middleware that turns HEAD into GET for what lies behind it, and drops the body.

    Args:
        app: what answers; it tells in the scope which route did.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        behind = {**scope, "method": "GET"}
        try:
            await self._app(behind, receive, without_body)
        finally:  # for the log and the metrics
            scope.update({key: behind[key] for key in ("route", "root_path") if key in behind})
