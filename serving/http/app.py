"""The web application: routes, error answers and the models' life around one server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from lavit_deploy import __version__
from lavit_deploy.common.errors import LavitError
from lavit_deploy.serving.http.admission import Admission, AdmissionMiddleware
from lavit_deploy.serving.http.api_keys import Access, ApiKeyMiddleware
from lavit_deploy.serving.http.connections.places import Places
from lavit_deploy.serving.http.deadlines import HEADER as DEADLINE
from lavit_deploy.serving.http.early_refusal import EARLY_REFUSAL, METRICS, PLACES, EarlyRefusal
from lavit_deploy.serving.http.fast_path import FastPath
from lavit_deploy.serving.http.head_requests import HeadRequests
from lavit_deploy.serving.http.loop_lag import LoopLag
from lavit_deploy.serving.http.proxies.root_path import STATE, RootPath, check_prefix
from lavit_deploy.serving.http.request_log import RequestLog
from lavit_deploy.serving.http.response_headers import (
    CompressionMiddleware,
    CrossOriginMiddleware,
    SafeHeadersMiddleware,
)
from lavit_deploy.serving.http.routes.admin import admin_routes, folders_of
from lavit_deploy.serving.http.routes.classify import Classify, classify_routes, classify_with
from lavit_deploy.serving.http.routes.health import health_routes
from lavit_deploy.serving.http.routes.models import models_routes
from lavit_deploy.serving.http.routes.openapi_docs import add_docs
from lavit_deploy.serving.http.routes.page import add_page
from lavit_deploy.serving.http.routes.v2 import protocol_routes
from lavit_deploy.serving.models.registry import Registry
from lavit_deploy.serving.settings.settings import ServiceSettings
from lavit_deploy.serving.telemetry.metrics import Metrics
from lavit_deploy.serving.telemetry.tracing import Tracing
from lavit_deploy.serving.wire.problem import (
    PictureProblem,
    error_response,
    problem_response,
    status_response,
)
from lavit_deploy.serving.wire.uploads import UploadBudget, UploadLimits, UploadReader

_DESCRIPTION = (
    "Classifies pictures with an exported LaViT. Every error is a problem (RFC 9457) of media "
    "type application/problem+json; every answer carries an X-Request-ID."
)


def create_app(
    registry: Registry,
    settings: ServiceSettings,
    metrics: Metrics,
    *,
    workers: int | None = 1,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The ASGI application over some models, which it starts and closes with its lifespan.

    Args:
        registry: the models, not yet started.
        settings: limits.
        metrics: what `/metrics` shows.
        workers: processes of the service, of which this is one; where there are several,
            administration cannot change models. None: nobody knows, and there is none at all.
        tracing: where spans of requests go; None: nowhere.

    Raises:
        UsageError: the keys or the prefix cannot be used.
    """
    check_prefix(settings.root_path)
    access = Access.load(settings, os.environ)
    lag = LoopLag()
    admission = Admission(
        load=registry, lag=lag, burst=settings.queue, seconds=settings.request_seconds
    )
    # Keys, cross-origin rules and traces see a request before it is refused.
    whole_way = access.admin is not None or settings.cors_origins or tracing is not None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        registry.start()
        lag.start()
        early = None
        if not whole_way:
            early = EarlyRefusal(admission, metrics, prefix=settings.root_path)
        try:
            yield {METRICS: metrics, EARLY_REFUSAL: early, PLACES: Places.available()}
        except asyncio.CancelledError:
            return  # it is to stop at once
        await registry.close(settings.drain_seconds)
        await lag.stop()

    app = FastAPI(
        title="LaViT",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        servers=[{"url": settings.root_path}] if settings.root_path else None,
    )
    uploads = UploadReader(
        UploadLimits(
            max_bytes=settings.max_bytes,
            max_files=settings.max_files,
            seconds=settings.upload_seconds,
        ),
        UploadBudget(settings.max_pending_bytes),
    )
    classify = classify_with(
        registry, uploads, top_k=settings.top_k, seconds=settings.request_seconds
    )
    _add_middleware(app, settings, access=access, admission=admission, classify=classify)
    app.add_middleware(RequestLog, metrics=metrics, tracing=tracing)
    app.add_middleware(RootPath, prefix=settings.root_path)
    metrics.capacity(settings.queue)
    app.include_router(classify_routes(classify))
    app.include_router(models_routes(registry))
    for router in protocol_routes(
        registry, uploads, max_files=settings.max_files, seconds=settings.request_seconds
    ):
        app.include_router(router)
    app.include_router(health_routes(registry, metrics))
    if workers is not None and access.admin is not None:
        folders = folders_of(settings.sources)
        app.include_router(admin_routes(registry, uploads, folders, workers=workers))
    add_page(app)
    add_docs(app)
    _explain_errors(app)
    return app


def _add_middleware(
    app: FastAPI,
    settings: ServiceSettings,
    *,
    access: Access,
    admission: Admission,
    classify: Classify,
) -> None:
    """Add what stands between a request and its route; what is added last is asked first."""
    app.add_middleware(FastPath, classify=classify)
    app.add_middleware(HeadRequests)
    app.add_middleware(AdmissionMiddleware, admission=admission)
    app.add_middleware(CompressionMiddleware)
    if access.admin is not None:  # which is where any key is configured
        app.add_middleware(ApiKeyMiddleware, access=access)
    if settings.cors_origins:  # before the keys: a browser's preflight carries none
        app.add_middleware(
            CrossOriginMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "Content-Type", "X-API-Key", "X-Request-ID", DEADLINE),
            expose_headers=("Retry-After", "Server-Timing", "X-Request-ID"),
        )
    app.add_middleware(SafeHeadersMiddleware)


def _explain_errors(app: FastAPI) -> None:
    """Answer every error as a problem."""

    @app.exception_handler(LavitError)
    async def of_ours(request: Request, error: LavitError) -> Response:
        return error_response(request, error)

    @app.exception_handler(RequestValidationError)
    async def of_validation(request: Request, error: RequestValidationError) -> Response:
        details = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc'][1:])}: {problem['msg']}, "
            f"given {str(problem['input'])[:60]!r}"
            for problem in error.errors()
        )
        problem = PictureProblem(
            type="urn:lavit:problem:invalid-parameter",
            title="Invalid parameter",
            status=422,
            detail=details,
        )
        return problem_response(request, problem, reason="invalid-parameter")

    @app.exception_handler(HTTPException)
    async def of_status(request: Request, error: HTTPException) -> Response:
        see = f"see {getattr(request.state, STATE, '')}/docs"
        details = {
            404: f"there is nothing at {request.url.path[:200]}; {see}",
            405: f"{request.method} is not a method of {request.url.path[:200]}; {see}",
        }
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(_methods(request))
        detail = details.get(error.status_code, error.detail)
        return status_response(request, error.status_code, detail, headers)


def _methods(request: Request) -> list[str]:
    """Methods of a path over all its routes; Starlette names those of the first one alone."""

    def answered(method: str) -> bool:
        asked = {**request.scope, "method": method}
        return any(route.matches(asked)[0] is Match.FULL for route in request.app.routes)

    methods = {method for method in ("DELETE", "GET", "OPTIONS", "POST", "PUT") if answered(method)}
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)
