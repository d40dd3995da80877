"""`/admin`: load, exchange and unload models while the service runs."""

# No `from __future__ import annotations` here: FastAPI reads the routes' annotations.

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi import Path as InPath
from pydantic import ValidationError

from lavit_deploy.serving.errors import (
    InvalidParameterError,
    ModelRefusedError,
    SeveralWorkersError,
    UnknownModelError,
)
from lavit_deploy.serving.http.route_policy import ADMIN_VERSION
from lavit_deploy.serving.models.registry import Registry
from lavit_deploy.serving.settings.model_source import WORD, ModelSource
from lavit_deploy.serving.wire.answers import admin_entry, model_entry
from lavit_deploy.serving.wire.problem import problem_doc
from lavit_deploy.serving.wire.schemas import AdminList, LoadModel, ModelEntry
from lavit_deploy.serving.wire.uploads import UploadReader

_Name = Annotated[str, InPath(description="The model's name.", pattern=f"^{WORD}$")]
_Version = Annotated[str, InPath(description="Its version.", pattern=f"^{WORD}$")]


def admin_routes(
    registry: Registry, uploads: UploadReader, folders: frozenset[Path], *, workers: int = 1
) -> APIRouter:
    """The routes under `/admin`; to be added only where a key is asked for.

    Args:
        registry: the models.
        uploads: reads the bodies.
        folders: where bundles may lie that clients name; links are followed before it is checked.
        workers: processes of the service; where there are others, models cannot be changed here.
    """
    router = APIRouter(tags=["administration"])

    @router.get("/admin/models", summary="Which models are there, from where?")
    async def list_models() -> AdminList:
        """Every model with its bundle's folder, and why it is not ready where it is not."""
        return AdminList(models=tuple(admin_entry(item) for item in registry.listing()))

    @router.post(
        ADMIN_VERSION,
        summary="Load a model, or exchange it",
        responses={
            400: problem_doc("The body is not what it should be."),
            404: problem_doc("Without a bundle in the body: there is no such model."),
            408: problem_doc("The body did not arrive in time."),
            409: problem_doc("The service has several workers; SIGHUP changes models in all."),
            413: problem_doc("Too many bytes."),
            422: problem_doc("The bundle is refused, and why; nothing has changed."),
            503: problem_doc("Memory for bodies is used up, or the service is stopping."),
        },
        openapi_extra={"requestBody": _request_body()},
    )
    async def load(request: Request, name: _Name, version: _Version) -> ModelEntry:
        """Answered when the model is served: opened, checked and warmed up.

        A model that had this name and version answers until then, finishes what it holds, and is
        closed. An empty body opens its bundle again.
        """
        _check_alone(workers)
        async with uploads.read_bytes(request) as body:
            asked = _load_model(body)
        path = (
            _allowed(Path(asked.bundle), folders)
            if asked.bundle
            else _path(registry, name, version)
        )
        loaded = await registry.load(ModelSource(path, name, version), default=asked.default)
        return model_entry(loaded)

    @router.delete(
        ADMIN_VERSION,
        summary="Unload a model",
        status_code=204,
        responses={
            404: problem_doc("There is no such model."),
            409: problem_doc("It is the only one, or the service has several workers."),
            422: problem_doc("A name or version that cannot be."),
        },
    )
    async def unload(name: _Name, version: _Version) -> Response:
        """It gets no more requests, finishes what it holds, and is closed."""
        _check_alone(workers)
        await registry.unload(name, version)
        return Response(status_code=204)

    return router


def _check_alone(workers: int) -> None:
    if workers > 1:
        raise SeveralWorkersError(
            f"this is one of {workers} workers and cannot change the models of the others: change "
            "the bundles or the configuration, then send SIGHUP to lavit-serve"
        )


def folders_of(sources: tuple[ModelSource, ...]) -> frozenset[Path]:
    """The folders that the service's own bundles lie in."""
    return frozenset(source.path.resolve().parent for source in sources)


def _load_model(body: bytes) -> LoadModel:
    if not body.strip():
        return LoadModel()
    try:
        return LoadModel.model_validate_json(body)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'body'}: {problem['msg']}"
            for problem in error.errors(include_url=False)
        )
        raise InvalidParameterError(problems) from None


def _allowed(path: Path, folders: frozenset[Path]) -> Path:
    """The path, if the service's own bundles lie beside it.

    An artifact is code: whoever may load any folder may run anything.
    """
    try:
        resolved = path.resolve()
    except (ValueError, RuntimeError) as error:  # a null byte; before Python 3.13, links in a ring
        raise ModelRefusedError(f"{str(path)[:200]!r} is no path: {error}") from None
    if resolved.parent not in folders:
        there = ", ".join(sorted(str(folder) for folder in folders))
        raise ModelRefusedError(f"bundles are loaded from {there} only, given {str(path)[:200]!r}")
    return path


def _path(registry: Registry, name: str, version: str) -> Path:
    """Where the model that is served came from."""
    for served in registry.listing():
        if (served.name, served.version) == (name, version):
            return served.bundle
    raise UnknownModelError(
        f"there is no model {name} version {version} yet: say where its bundle is, as "
        '{"bundle": "/path"}'
    )


def _request_body() -> dict[str, Any]:
    return {
        "required": False,
        "content": {"application/json": {"schema": LoadModel.model_json_schema()}},
    }
