"""From what the models say to what HTTP answers."""

from __future__ import annotations

from lavit_deploy.common.errors import LavitError
from lavit_deploy.serving.models.classifier import Ranked
from lavit_deploy.serving.models.status import ModelIdentity, ModelStatus
from lavit_deploy.serving.wire.problem import picture_problem
from lavit_deploy.serving.wire.schemas import (
    AdminEntry,
    ClassifiedPicture,
    FailedPicture,
    ModelEntry,
    ModelId,
    PictureTiming,
)
from lavit_deploy.tasks.classification import CLASSIFICATION


def picture_answer(
    index: int, name: str | None, result: Ranked | LavitError, labels: tuple[str, ...]
) -> ClassifiedPicture | FailedPicture:
    """The answer to one picture.

    Args:
        index: its position in the request.
        name: its file name as sent.
        result: of the model.
        labels: the model's classes.
    """
    if isinstance(result, LavitError):
        return FailedPicture(index=index, name=name, error=picture_problem(result))
    answer = CLASSIFICATION.answer(result.ranking, labels)
    return ClassifiedPicture(
        index=index,
        name=name,
        predictions=answer.predictions,
        unknown=answer.unknown,
        timing=PictureTiming(
            decode_ms=milliseconds(result.decode_seconds),
            queue_ms=milliseconds(result.queue_seconds),
            infer_ms=milliseconds(result.infer_seconds),
            batch=result.batch,
        ),
    )


def milliseconds(seconds: float) -> float:
    """As answers show them: whole microseconds."""
    return round(seconds * 1e3, 3)


def model_id(identity: ModelIdentity) -> ModelId:
    """Which model answered."""
    return ModelId(
        name=identity.name,
        version=identity.version,
        artifact=identity.artifact,
        checkpoint=identity.checkpoint,
    )


def model_entry(status: ModelStatus) -> ModelEntry:
    """A model as everybody may see it."""
    return ModelEntry(
        **dict(model_id(status)),
        default=status.default,
        ready=status.unready_reason is None,
        classes=status.classes,
    )


def admin_entry(status: ModelStatus) -> AdminEntry:
    """A model as its operators see it."""
    return AdminEntry(
        **dict(model_entry(status)),
        bundle=str(status.bundle),
        reason=status.unready_reason,
        pending=status.pending,
    )
