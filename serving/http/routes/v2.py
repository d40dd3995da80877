"""`/v2`: the Open Inference Protocol, as KServe, Triton and their clients speak it."""

# No `from __future__ import annotations` here: FastAPI reads the routes' annotations.

import asyncio
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Request, Response

from lavit_deploy import __version__
from lavit_deploy.common.errors import LavitError
from lavit_deploy.serving.errors import NotReadyError
from lavit_deploy.serving.http.client_gone import cancel_when_gone
from lavit_deploy.serving.http.deadlines import DEADLINE_DOC, deadline_of, within_deadline
from lavit_deploy.serving.http.route_policy import MODEL, VERSION
from lavit_deploy.serving.models.classifier import Classifier
from lavit_deploy.serving.models.lookup import ModelLookup
from lavit_deploy.serving.wire.problem import (
    headers_of,
    picture_problem,
    problem_doc,
    problem_response,
)
from lavit_deploy.serving.wire.schemas import (
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
    TensorMetadata,
)
from lavit_deploy.serving.wire.uploads import LONG, RAW, UploadReader
from lavit_deploy.serving.wire.v2_tensors import (
    IMAGES,
    LOGITS,
    PICTURES,
    InferCall,
    InferRequest,
    InferResponse,
    answer_of,
    read_call,
)

_TAG = "Open Inference Protocol v2"
_UNKNOWN = problem_doc("There is no such model.")
_UNREADY = problem_doc("Not ready; the detail says why.")
_HEADER_LENGTH = "Inference-Header-Content-Length"
_EXTENSIONS = ("binary_tensor_data", "classification")

_REFUSALS = {
    400: "The request breaks the protocol, or asks for what the model does not have.",
    404: "There is no such model.",
    408: "The body did not arrive in time.",
    413: "Too many bytes, pixels or pictures.",
    415: "A Content-Encoding that is not taken, or bytes that are no picture.",
    422: "A picture that is truncated or damaged.",
    500: "The model failed.",
    503: "Every place is taken, the wait too long, or the model not ready; see Retry-After.",
    504: "The deadline passed.",
}


def protocol_routes(
    models: ModelLookup, uploads: UploadReader, *, max_files: int, seconds: float
) -> tuple[APIRouter, ...]:
    """Health, metadata and inference under `/v2`.

    Args:
        models: what answers.
        uploads: reads the bodies.
        max_files: most pictures in one request.
        seconds: time for a request that brings no deadline of its own.
    """
    inference = _infer_routes(models, uploads, max_files, seconds)
    return _server_routes(models), _model_routes(models), inference


def _server_routes(models: ModelLookup) -> APIRouter:
    router = APIRouter(tags=[_TAG])

    @router.get("/v2", summary="What this server is")
    async def server() -> ServerMetadata:
        """Name, version and extensions of the protocol."""
        return ServerMetadata(name="lavit-serve", version=__version__, extensions=_EXTENSIONS)

    @router.get("/v2/health/live", summary="Is the server alive?")
    async def live() -> ServerLive:
        """Answers as long as the event loop runs."""
        return ServerLive()

    @router.get("/v2/health/ready", summary="Is every model ready?", responses={503: _UNREADY})
    async def ready() -> ServerReady:
        """Whether traffic should be sent here."""
        if models.unready_reason is not None:
            raise NotReadyError(models.unready_reason)
        return ServerReady()

    return router


def _model_routes(models: ModelLookup) -> APIRouter:
    router = APIRouter(tags=[_TAG])

    @router.get(MODEL, summary="What a model takes and gives", responses={404: _UNKNOWN})
    async def of_model(model_name: str) -> ModelMetadata:
        """Send one of the inputs: either decoded pictures or picture files."""
        return metadata(model_name, None)

    @router.get(VERSION, summary="What a version takes and gives", responses={404: _UNKNOWN})
    async def of_version(model_name: str, model_version: str) -> ModelMetadata:
        """Send one of the inputs: either decoded pictures or picture files."""
        return metadata(model_name, model_version)

    def metadata(model_name: str, model_version: str | None) -> ModelMetadata:
        with models.use(model_name, model_version) as classifier:
            versions = (item.version for item in models.listing() if item.name == model_name)
            return _metadata(model_name, tuple(versions), classifier)

    refusals: dict[int | str, dict[str, Any]] = {404: _UNKNOWN, 503: _UNREADY}

    @router.get(f"{MODEL}/ready", summary="Is a model ready?", responses=refusals)
    async def model_ready(model_name: str) -> ModelReady:
        """Whether it takes pictures now."""
        return ready(model_name, None)

    @router.get(f"{VERSION}/ready", summary="Is a version ready?", responses=refusals)
    async def version_ready(model_name: str, model_version: str) -> ModelReady:
        """Whether it takes pictures now."""
        return ready(model_name, model_version)

    def ready(model_name: str, model_version: str | None) -> ModelReady:
        with models.use(model_name, model_version) as classifier:
            if classifier.unready_reason is not None:
                raise NotReadyError(classifier.unready_reason)
        return ModelReady(name=model_name)

    return router


def _infer_routes(
    models: ModelLookup, uploads: UploadReader, max_files: int, seconds: float
) -> APIRouter:
    router = APIRouter(tags=[_TAG])

    async def infer(request: Request, model_name: str, model_version: str | None) -> Response:
        deadline = deadline_of(request, seconds)
        return await within_deadline(deadline, answer(request, model_name, model_version, deadline))

    async def answer(
        request: Request, model_name: str, model_version: str | None, deadline: float
    ) -> Response:
        async with uploads.read_bytes(request) as body:
            with models.use(model_name, model_version) as classifier:
                read = partial(
                    read_call,
                    body,
                    request.headers.get(_HEADER_LENGTH),
                    size=classifier.model.manifest.preprocess.shape,
                    max_pictures=max_files,
                )
                call = await asyncio.to_thread(read) if len(body) > LONG else read()
                request.state.pictures = len(call.pictures)
                results = await cancel_when_gone(request, classifier.infer(call.pictures, deadline))
                rows = []  # [K] each
                for index, result in enumerate(results):
                    if isinstance(result, LavitError):
                        return _refusal(request, index, result)
                    rows.append(result.logits)
                return _response(call, classifier, np.stack(rows))

    responses: dict[int | str, dict[str, Any]] = {
        status: problem_doc(text) for status, text in _REFUSALS.items()
    }
    binary = {"content": {RAW: {"schema": {"type": "string", "format": "binary"}}}}
    responses[200] = binary
    extra = {"requestBody": _request_body(), "parameters": [_LENGTH_DOC, DEADLINE_DOC]}

    @router.post(
        f"{MODEL}/infer",
        summary="Run a model on a batch of pictures",
        response_model=InferResponse,
        responses=responses,
        openapi_extra=extra,
    )
    async def infer_model(request: Request, model_name: str) -> Response:
        """All pictures of a request are answered together, or none: the problem names the first."""
        return await infer(request, model_name, None)

    @router.post(
        f"{VERSION}/infer",
        summary="Run a version on a batch of pictures",
        response_model=InferResponse,
        responses=responses,
        openapi_extra=extra,
    )
    async def infer_version(request: Request, model_name: str, model_version: str) -> Response:
        """All pictures of a request are answered together, or none: the problem names the first."""
        return await infer(request, model_name, model_version)

    return router


def _refusal(request: Request, index: int, error: LavitError) -> Response:
    """The answer where one picture failed; its reason was counted there."""
    problem = picture_problem(error)
    problem = problem.model_copy(update={"detail": f"picture {index}: {problem.detail}"})
    return problem_response(request, problem, reason=None, headers=headers_of(error))


def _metadata(name: str, versions: tuple[str, ...], classifier: Classifier) -> ModelMetadata:
    return ModelMetadata(
        name=name,
        versions=versions,
        platform=f"lavit_{classifier.model.artifact.runtime}",
        inputs=(
            TensorMetadata(
                name=IMAGES,
                datatype="UINT8",
                shape=(-1, *classifier.model.manifest.preprocess.shape),
            ),
            TensorMetadata(name=PICTURES, datatype="BYTES", shape=(-1,)),
        ),
        outputs=(
            TensorMetadata(name=LOGITS, datatype="FP32", shape=(-1, len(classifier.classes))),
        ),
    )


def _response(call: InferCall, classifier: Classifier, logits: npt.NDArray[np.float32]) -> Response:
    header, raw = answer_of(call, logits, classifier.classes, classifier.model.key)
    if not call.binary:
        return Response(header, media_type="application/json")
    return Response(header + raw, media_type=RAW, headers={_HEADER_LENGTH: str(len(header))})


_LENGTH_DOC = {
    "name": _HEADER_LENGTH,
    "in": "header",
    "required": False,
    "description": "Bytes of JSON at the body's start, where raw tensors follow it.",
    "schema": {"type": "integer", "minimum": 0},
}


def _request_body() -> dict[str, Any]:
    """OpenAPI's description of what `/infer` takes."""
    schema = InferRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)  # `openapi_docs` puts them where the references point
    return {
        "required": True,
        "content": {
            "application/json": {"schema": schema},
            RAW: {"schema": {"type": "string", "format": "binary"}},
        },
    }
