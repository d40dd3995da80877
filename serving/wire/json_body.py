"""Pictures in a JSON body, as base64."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)

from lavit_deploy.serving.errors import MalformedUploadError, NoPictureError, TooManyPicturesError

_WHITE = str.maketrans("", "", " \t\r\n")  # lines, as the base64 program writes them


def from_base64(text: object) -> bytes:
    """Bytes of base64, with or without line breaks or a `data:` URL's head.

    Raises:
        ValueError: it is no base64.
    """
    if not isinstance(text, str):
        raise ValueError("expected base64 in a string")  # noqa: TRY004 - pydantic takes ValueError
    if text.startswith("data:"):
        head, _, text = text.partition(",")
        if not head.endswith(";base64"):
            raise ValueError("a data: URL that is not base64")
    try:
        return base64.b64decode(text.translate(_WHITE), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not valid base64") from None


Base64 = Annotated[
    bytes,
    BeforeValidator(from_base64),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class JsonPicture(_Body):
    """One picture."""

    data: Base64 = Field(description="The picture's file as base64; a `data:` URL will do.")
    name: str | None = Field(default=None, description="Comes back in the answer.", max_length=255)


class JsonPictures(_Body):
    """What `POST /classify` takes as application/json."""

    pictures: tuple[JsonPicture, ...] = Field(description="In order.", min_length=1)


def read_json(body: bytes, max_files: int) -> tuple[JsonPicture, ...]:
    """Pictures of a JSON body.

    Raises:
        MalformedUploadError: not JSON, or not of this shape.
        NoPictureError: an empty list.
        TooManyPicturesError: more than `max_files`.
    """
    try:
        pictures = JsonPictures.model_validate_json(body).pictures
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "too_short":
            raise NoPictureError("the list of pictures is empty") from None
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise MalformedUploadError(
            f"{where}: {first['msg']}; expected "
            '{"pictures": [{"name": "a.jpg", "data": "<base64>"}]}'
        ) from None
    if len(pictures) > max_files:
        raise TooManyPicturesError(f"more than {max_files} pictures in one request")
    return pictures
