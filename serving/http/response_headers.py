"""What every answer says to browsers and proxies, and its compression."""

from __future__ import annotations

from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lavit_deploy.serving.errors import CrossOriginError
from lavit_deploy.serving.http.proxies.root_path import relative_redirect
from lavit_deploy.serving.wire.problem import error_response

_COMPRESSED_FROM = 1024  # bytes; below, packing takes longer than sending
_LEVEL = 5

SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


class SafeHeadersMiddleware:
    """ASGI middleware that gives every answer the headers it does not have yet.

    Redirects, which starlette makes with the host that the client names, become relative.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def completed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SAFE_HEADERS.items():
                    headers.setdefault(name, value)
                if message["status"] == HTTPStatus.TEMPORARY_REDIRECT:
                    headers["location"] = relative_redirect(scope["path"], headers["location"])
            await send(message)

        await self._app(scope, receive, completed)


class CrossOriginMiddleware(CORSMiddleware):
    """Rules for pages of other origins; what breaks them gets a problem, like everything else."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except CrossOriginError as error:
            refusal = error_response(Request(scope), error)
            refusal.headers.update(self.preflight_headers)
            await refusal(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to a preflight.

        Raises:
            CrossOriginError: it asks for what it may not.
        """
        response = super().preflight_response(request_headers)
        if response.status_code >= HTTPStatus.BAD_REQUEST:
            raise CrossOriginError(bytes(response.body).decode())
        return response


class CompressionMiddleware(GZipMiddleware):
    """Packs answers for clients that can unpack them.

    The answer to a POST is kept by no cache, which alone would ask what it varies with: where it
    will not be packed, it is sent past starlette's look at it, which takes 8 % of the time of a
    request to a small model.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(app, minimum_size=_COMPRESSED_FROM, compresslevel=_LEVEL)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and not _takes_gzip(scope):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def _takes_gzip(scope: Scope) -> bool:
    return any(name == b"accept-encoding" and b"gzip" in value for name, value in scope["headers"])
