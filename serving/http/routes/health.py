"""How the service is: for whoever runs it, and for Prometheus."""

# No `from __future__ import annotations` here: FastAPI reads the routes' annotations.

from fastapi import APIRouter, Request, Response

from lavit_deploy.serving.errors import NotReadyError
from lavit_deploy.serving.models.lookup import ModelLookup
from lavit_deploy.serving.telemetry.metrics import Metrics
from lavit_deploy.serving.wire.problem import error_response, problem_doc
from lavit_deploy.serving.wire.schemas import Health


def health_routes(models: ModelLookup, metrics: Metrics) -> APIRouter:
    """`/healthz`, `/readyz` and `/metrics`."""
    router = APIRouter(tags=["operation"])

    @router.get("/healthz", summary="Is the process alive?")
    async def healthz() -> Health:
        """Answers as long as the event loop runs."""
        return Health()

    @router.get(
        "/readyz",
        summary="Should traffic be sent here?",
        response_model=Health,
        responses={503: problem_doc("Warming up, stopping or broken; the detail says which.")},
    )
    async def readyz(request: Request) -> Response:
        """Ready once every model has answered a warm-up, until the service begins to stop."""
        reason = models.unready_reason
        if reason is not None:
            return error_response(request, NotReadyError(reason))
        return Response(Health().model_dump_json(), media_type="application/json")

    @router.get(
        "/metrics",
        summary="Metrics for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def show_metrics(request: Request) -> Response:
        """Requests, errors, queues, batches and times, in Prometheus' text format."""
        content, media_type = metrics.exposition(request.headers.get("accept", ""))
        return Response(content, media_type=media_type)

    return router
