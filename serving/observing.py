"""Around every request: an id, a count, a line in the log, and an answer whatever happens."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lavit_deploy.errors import LavitError
from serving.errors import NotReadyError, UnexpectedError
from serving.metrics import Metrics
from serving.problem import error_response

_log = logging.getLogger("serving.requests")

REQUEST_ID = "X-Request-ID"
_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._:+=-]{1,128}")
"""Ids taken from clients: nothing that could forge a line in a log or a header."""

_QUIET = frozenset({"/healthz", "/readyz", "/metrics", "/page", "/docs/assets"})
"""Routes whose successes are logged at debug level only."""


class Observer:
    """ASGI middleware that sees every request from its first byte to its last.

    Args:
        app: what answers.
        metrics: where requests are counted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        request_id = state["request_id"] = _request_id(scope)
        status = 0

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        async def refuse(error: LavitError) -> None:
            if not status:
                await error_response(Request(scope), error)(scope, receive, observed)

        self._metrics.in_flight.inc()
        try:
            await self._app(scope, receive, observed)
        except asyncio.CancelledError:
            await refuse(NotReadyError("the service stopped before it could answer"))
            raise
        except Exception:  # noqa: BLE001 - the last place where it can become an answer
            _log.exception("unexpected while answering", extra={"request_id": request_id})
            await refuse(UnexpectedError("the service failed on this request; the log says why"))
        finally:
            self._metrics.in_flight.dec()
            self._conclude(scope, status, time.perf_counter() - started)

    def _conclude(self, scope: Scope, status: int, seconds: float) -> None:
        """Count the request and log it."""
        route = _route(scope)
        state = scope["state"]
        reason = state.get("reason")
        if reason is not None:
            self._metrics.error(reason)
        self._metrics.request(route=route, method=scope["method"], status=status, seconds=seconds)
        quiet = route in _QUIET and status < 400
        _log.log(
            logging.DEBUG if quiet else logging.INFO,
            "%s %s %d",
            scope["method"],
            scope["path"].encode("unicode_escape").decode("ascii")[:200],
            status,
            extra={
                "request_id": state["request_id"],
                "milliseconds": round(seconds * 1e3, 3),
                "client": (scope.get("client") or ("-",))[0],
                **({"reason": reason} if reason else {}),
                **({"pictures": state["pictures"]} if "pictures" in state else {}),
            },
        )


def _route(scope: Scope) -> str:
    """The route's pattern, or the folder of static files; never the path that was asked for."""
    path: str = getattr(scope.get("route"), "path", "")
    return path or scope.get("root_path") or "unmatched"


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get(REQUEST_ID, "")
    return given if _ACCEPTED_ID.fullmatch(given) else uuid.uuid4().hex
