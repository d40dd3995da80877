"""Requests that a stop does not wait for: counted, for the exit code, and no fault for the log."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send


class AbandonedRequests:
    """ASGI middleware, the outermost one: a request that is cancelled has been given up.

    uvicorn cancels what is left at the end of a drain, and what is left when it is to stop at
    once. It would log each as an exception of the application.

    Args:
        app: what answers; it answers cancelled requests, too, where there still is somebody.

    Attributes:
        count: requests that were given up.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if scope["type"] != "http":
                raise
            self.count += 1
