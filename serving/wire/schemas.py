"""What `/classify`, `/models` and the health checks answer with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from lavit_deploy.serving.wire.problem import PictureProblem
from lavit_deploy.tasks.classification import Prediction


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class ModelId(_Answer):
    """Which model answered."""

    name: str = Field(description="The model's name.")
    version: str = Field(description="Its version.", examples=["1"])
    artifact: str = Field(description="The artifact that ran.", examples=["onnx-fp32"])
    checkpoint: str = Field(
        description="First 12 hexadecimal digits of the checkpoint's SHA-256.",
        pattern="^[0-9a-f]{12}$",
    )


class PictureTiming(_Answer):
    """Where a picture's time went, milliseconds."""

    decode_ms: float = Field(description="Decoding, resizing and cropping.", ge=0)
    queue_ms: float = Field(description="Waiting for a decoder and for the runtime.", ge=0)
    infer_ms: float = Field(description="Its batch in the runtime.", ge=0)
    batch: int = Field(description="Pictures in that batch.", ge=1)


class ClassifiedPicture(_Answer):
    """A picture that was classified."""

    status: Literal["ok"] = "ok"
    index: int = Field(description="Its position in the request, from 0.", ge=0)
    name: str | None = Field(description="Its file name as sent.")
    predictions: tuple[Prediction, ...] = Field(description="Most likely first.")
    unknown: bool | None = Field(
        description="Whether the picture is unlike those that the model knows; null where the "
        "model has no threshold for it."
    )
    timing: PictureTiming


class FailedPicture(_Answer):
    """A picture that was not classified."""

    status: Literal["error"] = "error"
    index: int = Field(description="Its position in the request, from 0.", ge=0)
    name: str | None = Field(description="Its file name as sent.")
    error: PictureProblem


class RequestTiming(_Answer):
    """Where a request's time went, milliseconds."""

    read_ms: float = Field(description="Until the whole body had arrived.", ge=0)
    total_ms: float = Field(description="Until the answer was ready, `read_ms` included.", ge=0)


class Classification(_Answer):
    """The answer to `POST /classify`."""

    request_id: str = Field(description="Also in the X-Request-ID header and in the log.")
    model: ModelId
    results: tuple[
        Annotated[ClassifiedPicture | FailedPicture, Field(discriminator="status")], ...
    ] = Field(description="One for each picture, in the order they were sent.")
    timing: RequestTiming


class ModelEntry(ModelId):
    """One model that can be asked."""

    default: bool = Field(description="Whether it answers requests that name no model.")
    ready: bool = Field(description="Whether it takes pictures now.")
    classes: int = Field(description="Number of classes.", ge=1)


class AdminEntry(ModelEntry):
    """One model, as its operators see it."""

    bundle: str = Field(description="The folder that it was opened from.")
    reason: str | None = Field(description="Why it is not ready; null while it is.")
    pending: int = Field(description="Pictures accepted and not yet answered.", ge=0)


class AdminList(_Answer):
    """The answer of `GET /admin/models`."""

    models: tuple[AdminEntry, ...]


class LoadModel(BaseModel):
    """What to load, as `POST /admin/models/{name}/versions/{version}` takes it."""

    model_config = ConfigDict(extra="forbid")

    bundle: str | None = Field(
        default=None,
        min_length=1,
        description="Folder of the bundle on the server; without it the one that is served.",
    )
    default: bool = Field(
        default=False, description="Whether to answer requests that name no model, or no version."
    )


class ModelList(_Answer):
    """The answer of `GET /models`."""

    models: tuple[ModelEntry, ...]


class ServerMetadata(_Answer):
    """The answer of `GET /v2`."""

    name: str
    version: str
    extensions: tuple[str, ...] = Field(description="Of the Open Inference Protocol.")


class ServerLive(_Answer):
    """The answer of `GET /v2/health/live`."""

    live: Literal[True] = True


class ServerReady(_Answer):
    """The answer of `GET /v2/health/ready` when all is well."""

    ready: Literal[True] = True


class ModelReady(_Answer):
    """The answer of a model's `/ready` when all is well."""

    name: str
    ready: Literal[True] = True


class TensorMetadata(_Answer):
    """A tensor that a model takes or gives."""

    name: str
    datatype: str = Field(examples=["FP32"])
    shape: tuple[int, ...] = Field(description="-1 is any size.")


class ModelMetadata(_Answer):
    """The answer of `GET /v2/models/{model_name}`."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...] = Field(description="A request has one of them.")
    outputs: tuple[TensorMetadata, ...]


class Health(_Answer):
    """The answer of the health checks when all is well."""

    status: Literal["ok"] = "ok"
