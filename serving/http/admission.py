"""The first refusal: without reading a body, and before the event loop is too busy to refuse."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Protocol

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from lavit_deploy.serving.errors import (
    InvalidParameterError,
    OverloadedError,
    PredictedWaitError,
    UnavailableError,
)
from lavit_deploy.serving.http.deadlines import seconds_of
from lavit_deploy.serving.http.routes.routes import CLASSIFY
from lavit_deploy.serving.wire.problem import error_response

_EVERY = 0.005
"""Seconds between looks at the clock."""

LONGEST_LAG = 0.01
"""Seconds by which a look may be late: beyond, accepted requests wait for the loop itself."""


class LoopLag:
    """How late the event loop is with what it should do now.

    A loop that has more to do than time keeps every callback waiting in one line; the delay of a
    timer is the length of that line.
    """

    def __init__(self) -> None:
        self._due = 0.0
        self._late = 0.0
        self._watching: asyncio.Task[None] | None = None

    @property
    def seconds(self) -> float:
        """The delay; also of a look that is late at this moment."""
        if self._watching is None or self._watching.done():
            return 0.0
        return max(self._late, time.perf_counter() - self._due)

    def start(self) -> None:
        """Begin to look; needs a running event loop."""
        self._due = time.perf_counter() + _EVERY
        self._watching = asyncio.create_task(self._watch(), name="loop lag")

    async def _watch(self) -> None:
        while True:
            self._due = time.perf_counter() + _EVERY
            await asyncio.sleep(_EVERY)
            self._late = max(0.0, time.perf_counter() - self._due)

    async def stop(self) -> None:
        """End the looks."""
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching


class Load(Protocol):
    """What the door asks of the models."""

    @property
    def full(self) -> bool:
        """Whether no model has a place for one more picture."""

    @property
    def predicted_wait(self) -> float:
        """Seconds until one more picture would be answered."""


class Admission:
    """Whether work that arrives now can be done in time.

    Args:
        load: of the models.
        lag: of the event loop.
        crowd: requests that are let in however late the loop is: a burst is no overload.
        seconds: time for a request that brings no deadline of its own.

    Attributes:
        inside: requests that were let in and are being answered.
    """

    def __init__(self, *, load: Load, lag: LoopLag, crowd: int, seconds: float) -> None:
        self._load = load
        self._lag = lag
        self._crowd = crowd
        self._seconds = seconds
        self.inside = 0

    def refusal(self, headers: Mapping[str, str]) -> UnavailableError | None:
        """Why a request with these headers is refused; None where it is let in."""
        if self._load.full:
            return OverloadedError("every place is taken")
        with suppress(InvalidParameterError):  # whoever reads the request answers that
            wait = self._load.predicted_wait
            if wait > seconds_of(headers, self._seconds):
                return PredictedWaitError(
                    f"an answer would take {wait * 1e3:.0f} ms, longer than the deadline leaves"
                )
        # A crowd alone may be slow uploads, which cost nothing; a late loop alone, one stall.
        if self.inside >= self._crowd and self._lag.seconds > LONGEST_LAG:
            return OverloadedError(
                f"requests come faster than they can be read, {self.inside} are being answered"
            )
        return None


class Door:
    """ASGI middleware that refuses work while the service could not do it in time.

    Args:
        app: what answers otherwise.
        admission: who is let in.
    """

    def __init__(self, app: ASGIApp, *, admission: Admission) -> None:
        self._app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Health, metrics and administration must work above all when there is too much work.
        route = None
        if scope["type"] == "http" and scope["method"] == "POST":
            route = route_of_work(scope["path"])
        if route is None:
            await self._app(scope, receive, send)
            return
        refusal = self._admission.refusal(Headers(scope=scope))
        if refusal is not None:
            scope["state"]["route"] = route  # no router will say it
            scope["state"]["quiet"] = True  # a line for each would cost as much as the refusal
            await error_response(Request(scope), refusal)(scope, receive, send)
            return
        self._admission.inside += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._admission.inside -= 1


def route_of_work(path: str) -> str | None:
    """The route that classifies, as routers name it; None where the path is of another one."""
    if path.endswith("/infer"):
        return "/v2/models/{model_name}/infer"
    return path if path == CLASSIFY else None
