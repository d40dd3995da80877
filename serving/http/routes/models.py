"""`/models`: which models there are."""

# No `from __future__ import annotations` here: FastAPI reads the routes' annotations.

from fastapi import APIRouter

from lavit_deploy.serving.models.lookup import ModelLookup
from lavit_deploy.serving.wire.answers import model_entry
from lavit_deploy.serving.wire.schemas import ModelList


def models_routes(models: ModelLookup) -> APIRouter:
    """`GET /models`."""
    router = APIRouter(tags=["classify"])

    @router.get("/models", summary="Which models are there?")
    async def list_models() -> ModelList:
        """Every model that can be asked, by name and version."""
        return ModelList(models=tuple(model_entry(item) for item in models.listing()))

    return router
