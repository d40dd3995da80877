"""Around every request: an id, a count, a line in the log, and an answer whatever happens."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Mapping, MutableMapping
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lavit_deploy.common.errors import LavitError
from lavit_deploy.serving.errors import NotReadyError, UnexpectedError, shortage
from lavit_deploy.serving.http.proxies.forwarded import client_address
from lavit_deploy.serving.http.route_policy import policy_of
from lavit_deploy.serving.telemetry.metrics import Metrics
from lavit_deploy.serving.telemetry.timeline import Timeline
from lavit_deploy.serving.telemetry.tracing import RequestTrace, Tracing
from lavit_deploy.serving.wire.problem import error_response

_log = logging.getLogger("serving.requests")

REQUEST_ID = "X-Request-ID"
TIMING = "Server-Timing"
_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._:+=-]{1,128}")
"""Ids taken from clients: nothing that could forge a line in a log or a header."""

_SHOWN = "/:@!$&()*+,;~{}[]"
"""Characters of a path that the log shows as they are: no blank, no quotes, no `=`."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestLog:
    """ASGI middleware that sees every request from its first byte to its last.

    Args:
        app: what answers.
        metrics: where requests are counted.
        tracing: where spans go; None: nowhere.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        request_id = state["request_id"] = id_of_request(Headers(scope=scope))
        timeline, token = Timeline.begin(request_id)
        trace = self._trace(scope, timeline)
        status = 0

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = request_id
                headers[TIMING] = timeline.header()
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
        except Exception as error:  # noqa: BLE001 - the last place where it can become an answer
            await refuse(_explained(error))
        finally:
            self._metrics.in_flight.dec()
            self._conclude(scope, status, timeline, trace)
            Timeline.end(token)

    def _trace(self, scope: Scope, timeline: Timeline) -> RequestTrace | None:
        if self._tracing is None or policy_of(scope["path"]).quiet:
            return None
        trace = self._tracing.begin(
            Headers(scope=scope), timeline, method=_method(scope), path=scope["path"]
        )
        timeline.trace_id = trace.trace_id
        return trace

    def _conclude(
        self, scope: Scope, status: int, timeline: Timeline, trace: RequestTrace | None
    ) -> None:
        """Count the request, log it, and end its trace."""
        seconds = time.perf_counter() - timeline.started
        route = _route(scope)
        method = _method(scope)
        state = scope["state"]
        if state.get("reason") is not None:
            self._metrics.error(state["reason"])
        reason = state.get("kind")
        self._metrics.request(
            route=route, method=method, status=status, reason=reason, seconds=seconds
        )
        if trace is not None:
            trace.end(timeline, method=method, route=route, status=status, reason=reason)
        quiet = (policy_of(scope["path"]).quiet and status < 400) or "quiet" in state
        _log.log(
            logging.DEBUG if quiet else logging.INFO,
            "%s %s %d",
            scope["method"],
            quote(scope["path"], safe=_SHOWN)[:200],
            status,
            extra={
                "request_id": state["request_id"],
                "method": method,
                "route": route,
                "status": status,
                **{f"{name}_ms": spent for name, spent in timeline.milliseconds().items()},
                "client": client_address(scope.get("client")),
                **({"reason": reason} if reason else {}),
                **({"pictures": state["pictures"]} if "pictures" in state else {}),
                **({"trace_id": timeline.trace_id} if timeline.trace_id else {}),
            },
        )


def _explained(error: Exception) -> LavitError:
    """What a client is told of a fault; the log has the rest, with the request's id."""
    if (known := shortage(error)) is not None:
        _log.error("not answered: %s", known)
        return known
    _log.error("unexpected while answering", exc_info=error)
    return UnexpectedError("the service failed on this request; the log says why")


def _method(scope: Scope) -> str:
    """The method; never a word of the client's own."""
    return scope["method"] if scope["method"] in _METHODS else "other"


def _route(scope: Scope) -> str:
    """The route's pattern, or the folder of static files; never the path that was asked for.

    What answers before a route is found may put the pattern into the request's state.
    """
    path: str = scope["state"].get("route") or getattr(scope.get("route"), "path", "")
    return path or scope.get("root_path") or "unmatched"


def id_of_request(headers: Mapping[str, str]) -> str:
    """The id that a request brings, if it is harmless, or else a new one."""
    given = headers.get(REQUEST_ID, "")
    return given if _ACCEPTED_ID.fullmatch(given) else uuid.uuid4().hex
