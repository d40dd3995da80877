"""The short way to `/classify`: past what frameworks do for every route, with the same answer.

Of the time of a request to a small model, a fifth is FastAPI's way from the application to the
endpoint. A request without a query needs nothing of it: there are no parameters to read.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from lavit_deploy.common.errors import LavitError
from lavit_deploy.serving.http.route_policy import CLASSIFY
from lavit_deploy.serving.http.routes.classify import Classify
from lavit_deploy.serving.wire.problem import error_response


class FastPath:
    """ASGI middleware, the innermost one: answers such requests itself, passes all others on.

    Args:
        app: what answers the others.
        classify: the endpoint.
    """

    def __init__(self, app: ASGIApp, *, classify: Classify) -> None:
        self._app = app
        self._classify = classify

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _short(scope):
            await self._app(scope, receive, send)
            return
        scope["state"]["route"] = CLASSIFY  # no router will say it
        request = Request(scope, receive, send)
        try:
            answer = await self._classify(request)
        except LavitError as error:
            answer = error_response(request, error)
        await answer(scope, receive, send)


def _short(scope: Scope) -> bool:
    return (
        scope["type"] == "http"
        and scope["method"] == "POST"
        and scope["path"] == CLASSIFY
        and not scope["query_string"]
    )
