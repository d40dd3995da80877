"""The first refusal: without reading a body, and before the event loop is too busy to refuse."""

from __future__ import annotations

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
from lavit_deploy.serving.http.loop_lag import LONGEST_LAG, LoopLag
from lavit_deploy.serving.http.route_policy import policy_of
from lavit_deploy.serving.wire.problem import error_response


class Load(Protocol):
    """What admission asks of the models."""

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
        burst: requests that are let in however late the loop is: so many at once are no overload.
        seconds: time for a request that brings no deadline of its own.

    Attributes:
        in_progress: requests that were let in and are being answered.
    """

    def __init__(self, *, load: Load, lag: LoopLag, burst: int, seconds: float) -> None:
        self._load = load
        self._lag = lag
        self._burst = burst
        self._seconds = seconds
        self.in_progress = 0

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
        # A burst alone may be slow uploads, which cost nothing; a late loop alone, one stall.
        if self.in_progress >= self._burst and self._lag.seconds > LONGEST_LAG:
            return OverloadedError(
                f"requests come faster than they can be read, {self.in_progress} are being answered"
            )
        return None


class AdmissionMiddleware:
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
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        policy = policy_of(scope["path"])
        if not policy.work:
            await self._app(scope, receive, send)
            return
        refusal = self._admission.refusal(Headers(scope=scope))
        if refusal is not None:
            scope["state"]["route"] = policy.path  # no router will say it
            scope["state"]["quiet"] = True  # a line for each would cost as much as the refusal
            await error_response(Request(scope), refusal)(scope, receive, send)
            return
        self._admission.in_progress += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._admission.in_progress -= 1
