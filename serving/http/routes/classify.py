"""`/classify`: pictures in, classes out."""

# No `from __future__ import annotations` here: FastAPI reads the limits inside the annotations,
# and they come from the model.

import time
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Query, Request, Response

from lavit_deploy.serving.decoding.picture_formats import Formats
from lavit_deploy.serving.errors import InvalidParameterError
from lavit_deploy.serving.http.client_gone import cancel_when_gone
from lavit_deploy.serving.http.deadlines import DEADLINE_DOC, deadline_of, within_deadline
from lavit_deploy.serving.http.route_policy import CLASSIFY
from lavit_deploy.serving.models.lookup import ModelLookup
from lavit_deploy.serving.wire.answers import milliseconds, model_id, picture_answer
from lavit_deploy.serving.wire.json_body import JsonPictures
from lavit_deploy.serving.wire.problem import (
    PictureProblem,
    RefusedPicture,
    problem_doc,
    problem_response,
)
from lavit_deploy.serving.wire.schemas import (
    Classification,
    FailedPicture,
    RequestTiming,
)
from lavit_deploy.serving.wire.uploads import JSON, MULTIPART, RAW, UploadReader

_REFUSALS = {
    400: "The request has no picture, or its body breaks the format.",
    404: "There is no such model.",
    408: "The body did not arrive in time.",
    413: "Too many bytes, pixels or pictures.",
    415: "A content type that is not taken, or bytes that are no picture.",
    422: "`top_k` out of range, or a picture that is truncated or damaged.",
    500: "The model failed.",
    503: "Every place is taken, the wait too long, or the model not ready; see Retry-After.",
    504: "The deadline passed.",
}


class Classify(Protocol):
    """The endpoint of `/classify`."""

    async def __call__(
        self,
        request: Request,
        *,
        asked: int | None = None,
        model: str | None = None,
        version: str | None = None,
    ) -> Response:
        """Answer a request.

        Args:
            request: with the pictures.
            asked: classes in the answer; None: the usual number.
            model: which; None: the default one.
            version: which of that name; None: the first one in the listing.

        Raises:
            LavitError: the request cannot be answered.
        """


def classify_with(
    models: ModelLookup, uploads: UploadReader, *, top_k: int, seconds: float
) -> Classify:
    """The endpoint of `/classify`.

    Args:
        models: what answers.
        uploads: reads the bodies.
        top_k: classes in an answer that does not ask for a number.
        seconds: time for a request that brings no deadline of its own.
    """

    async def classify(
        request: Request,
        *,
        asked: int | None = None,
        model: str | None = None,
        version: str | None = None,
    ) -> Response:
        deadline = deadline_of(request, seconds)
        return await within_deadline(deadline, answer(request, (model, version), asked, deadline))

    async def answer(
        request: Request,
        named: tuple[str | None, str | None],
        asked: int | None,
        deadline: float,
    ) -> Response:
        started = time.perf_counter()
        async with uploads.read(request) as received:
            read = time.perf_counter()
            pictures = received.pictures
            request.state.pictures = len(pictures)
            with models.use(*named) as classifier:
                classes = _classes(asked, top_k, len(classifier.classes))
                work = classifier.classify(
                    [picture.data for picture in pictures], classes, deadline
                )
                found = await cancel_when_gone(request, work)
        results = [
            picture_answer(index, picture.name, result, classifier.classes)
            for index, (picture, result) in enumerate(zip(pictures, found, strict=True))
        ]
        failed = [result for result in results if isinstance(result, FailedPicture)]
        if len(failed) == len(results):
            return _refusal(request, failed)
        whole = Classification(
            request_id=request.state.request_id,
            model=model_id(classifier.model.id),
            results=tuple(results),
            timing=RequestTiming(
                read_ms=milliseconds(read - started),
                total_ms=milliseconds(time.perf_counter() - started),
            ),
        )
        return Response(whole.model_dump_json(), media_type="application/json")

    return classify


def classify_routes(classify: Classify) -> APIRouter:
    """`POST /classify`."""
    router = APIRouter(tags=["classify"])

    @router.post(
        CLASSIFY,
        summary="Classify one or several pictures",
        response_model=Classification,
        responses={status: problem_doc(text) for status, text in _REFUSALS.items()},
        openapi_extra={"requestBody": _request_body(), "parameters": [DEADLINE_DOC]},
        operation_id="classify_classify_post",
    )
    async def classify_with_query(
        request: Request,
        asked: Annotated[
            int | None,
            Query(alias="top_k", ge=1, description="How many classes to answer with."),
        ] = None,
        model: Annotated[
            str | None, Query(description="Which model; see /models. Without it, the default.")
        ] = None,
        version: Annotated[str | None, Query(description="Which version of it.")] = None,
    ) -> Response:
        """Send files as a multipart form, base64 in JSON, or one picture as the body itself.

        Several pictures are answered one by one, in order: the answer is 200 if at least one was
        classified, and the others carry their problem. If none was, the answer is a problem with
        the status they have in common, or 422.
        """
        return await classify(request, asked=asked, model=model, version=version)

    return router


def _classes(asked: int | None, usual: int, most: int) -> int:
    """How many classes to answer with."""
    if asked is not None and asked > most:
        raise InvalidParameterError(f"top_k: must be 1..{most}, given {str(asked)[:40]}")
    return min(usual, most) if asked is None else asked


def _refusal(request: Request, failed: list[FailedPicture]) -> Response:
    """The answer to a request of which no picture could be classified."""
    if len(failed) == 1:
        problem = failed[0].error
        errors: tuple[RefusedPicture, ...] = ()
    else:
        statuses = {picture.error.status for picture in failed}
        common = statuses.pop() if len(statuses) == 1 else 500 if max(statuses) >= 500 else 422
        problem = PictureProblem(
            type="urn:lavit:problem:no-picture-classified",
            title="No picture classified",
            status=common,
            detail=f"none of the {len(failed)} pictures could be classified; see errors",
        )
        errors = tuple(
            RefusedPicture(index=item.index, name=item.name, **item.error.model_dump())
            for item in failed
        )
    # Each picture's own reason was counted where it failed.
    return problem_response(request, problem, reason=None, errors=errors)


def _request_body() -> dict[str, Any]:
    """OpenAPI's description of what `/classify` takes."""
    picture = {"type": "string", "format": "binary"}
    form = {
        "type": "object",
        "required": ["files"],
        "properties": {
            "files": {
                "type": "array",
                "items": picture,
                "minItems": 1,
                "description": "Pictures; the field may have any name.",
            }
        },
        "additionalProperties": False,
    }
    kinds = Formats.available().media_types
    base64 = JsonPictures.model_json_schema(ref_template="#/components/schemas/{model}")
    base64.pop("$defs")  # `openapi_docs` puts them where the references point
    return {
        "required": True,
        "content": {
            MULTIPART: {"schema": form},
            JSON: {"schema": base64},
            **{kind: {"schema": picture} for kind in [*kinds, RAW]},
        },
    }
