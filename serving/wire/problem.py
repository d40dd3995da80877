"""Errors as clients see them: problem details, RFC 9457."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from lavit_deploy.common.errors import LavitError
from lavit_deploy.serving.errors import UnauthorizedError, UnavailableError, kind_of

MEDIA_TYPE = "application/problem+json"


class PictureProblem(BaseModel):
    """Why one picture was not classified."""

    model_config = ConfigDict(frozen=True)

    type: str = Field(
        description="Identifies the kind of problem.",
        examples=["urn:lavit:problem:corrupt-image"],
    )
    title: str = Field(description="The kind in words.", examples=["Corrupt image"])
    status: int = Field(description="HTTP status of this problem.", ge=400, le=599, examples=[422])
    detail: str = Field(
        description="What was given and what would be valid.",
        examples=["the picture is truncated or damaged: image file is truncated"],
    )


class RefusedPicture(PictureProblem):
    """Why one picture of several was not classified."""

    index: int = Field(description="Its position in the request, from 0.", ge=0)
    name: str | None = Field(description="Its file name as sent.")


class Problem(PictureProblem):
    """Why a request was not answered as asked (RFC 9457)."""

    instance: str = Field(description="This occurrence.", examples=["/classify#6f1e…"])
    request_id: str = Field(description="Also in the X-Request-ID header and in the log.")
    error: str | None = Field(
        default=None, description="The detail again, under /v2: its clients look for it here."
    )
    errors: tuple[RefusedPicture, ...] = Field(
        default=(), description="Picture by picture, where several were sent and all were refused."
    )


def title_of(kind: str) -> str:
    """Slug to words: "corrupt-image" is "Corrupt image"."""
    return kind.replace("-", " ").capitalize()


def picture_problem(error: LavitError) -> PictureProblem:
    """The problem that an error is."""
    kind = kind_of(error)
    return PictureProblem(
        type=f"urn:lavit:problem:{kind}",
        title=title_of(kind),
        status=error.http_status,
        detail=str(error),
    )


def error_response(request: Request, error: LavitError) -> Response:
    """A whole answer that is one of our errors."""
    problem = picture_problem(error)
    return problem_response(request, problem, reason=kind_of(error), headers=headers_of(error))


def headers_of(error: LavitError) -> dict[str, str]:
    """What an answer's headers say about an error."""
    if isinstance(error, UnavailableError):
        return {"Retry-After": str(error.retry_after)}
    if isinstance(error, UnauthorizedError):
        return {"WWW-Authenticate": "Bearer"}
    return {}


def problem_doc(description: str) -> dict[str, Any]:
    """OpenAPI's description of an answer that is a problem."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {MEDIA_TYPE: {"schema": schema}}}


def status_response(
    request: Request, status: int, detail: str, headers: dict[str, str] | None = None
) -> Response:
    """A whole answer whose kind is its HTTP status alone, such as 404."""
    title = HTTPStatus(status).phrase
    problem = PictureProblem(type="about:blank", title=title, status=status, detail=detail)
    return problem_response(
        request, problem, reason=title.lower().replace(" ", "-"), headers=headers
    )


def problem_response(
    request: Request,
    problem: PictureProblem,
    *,
    reason: str | None,
    headers: dict[str, str] | None = None,
    errors: tuple[RefusedPicture, ...] = (),
) -> Response:
    """A whole answer that is a problem.

    Args:
        request: what is answered; `reason`, to be counted, and the problem's kind are left in
            its state, for the metrics and the log.
        problem: the problem.
        reason: its kind; None where the kinds were counted picture by picture.
        headers: more headers.
        errors: the problem of each picture.
    """
    request.state.reason = reason
    request.state.kind = reason or problem.type.rpartition(":")[2]
    whole = whole_problem(
        problem, path=request.url.path, request_id=request.state.request_id, errors=errors
    )
    return Response(
        whole.model_dump_json(exclude_defaults=True),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers=headers,
    )


def whole_problem(
    problem: PictureProblem,
    *,
    path: str,
    request_id: str,
    errors: tuple[RefusedPicture, ...] = (),
) -> Problem:
    """A problem as the problem of one request, by its path and its id."""
    return Problem(
        **problem.model_dump(include=set(PictureProblem.model_fields)),
        instance=f"{quote(path)}#{quote(request_id)}",
        request_id=request_id,
        error=problem.detail if path.startswith("/v2/") else None,
        errors=errors,
    )
