"""Requests and answers of the Open Inference Protocol v2: tensors as JSON or as raw bytes.

Source: inference_rest.md of https://github.com/kserve/open-inference-protocol, and Triton's
extensions "binary tensor data" and "classification", docs/protocol of
https://github.com/triton-inference-server/server.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from lavit_deploy.preprocess import Pixels
from lavit_deploy.serving.errors import MalformedTensorError, NoPictureError, TooManyPicturesError
from lavit_deploy.serving.wire.json_body import from_base64

IMAGES = "images"
"""Input: decoded pictures of the model's size, UINT8 [B, H, W, C]."""

PICTURES = "pictures"
"""Input: picture files, BYTES [B]; as base64 where the tensor is in JSON."""

LOGITS = "logits"
"""Output: FP32 [B, K], or strings where classes are asked for."""

Parameters = dict[str, bool | int | float | str]


class _Part(BaseModel):
    # The protocol lets servers ignore what they do not know.
    model_config = ConfigDict(frozen=True, extra="ignore")


class InputTensor(_Part):
    """A tensor of a request."""

    name: Literal["images", "pictures"]
    shape: tuple[NonNegativeInt, ...] = Field(description="[B, H, W, C] or [B].")
    datatype: Literal["UINT8", "BYTES"]
    parameters: Parameters = Field(default={}, description="`binary_data_size`: bytes after JSON.")
    data: list[Any] | None = Field(default=None, description="Row-major, nested or flat.")


class RequestedOutput(_Part):
    """An output that a client asks for."""

    name: Literal["logits"]
    parameters: Parameters = Field(
        default={}, description="`binary_data`: raw bytes; `classification`: that many classes."
    )


class InferRequest(_Part):
    """The JSON of a request to `/infer`."""

    id: str | None = Field(default=None, description="Comes back in the answer.", max_length=256)
    parameters: Parameters = Field(
        default={}, description="`binary_data_output`: raw bytes for every output."
    )
    inputs: tuple[InputTensor, ...] = Field(min_length=1, max_length=1)
    outputs: tuple[RequestedOutput, ...] | None = Field(default=None, max_length=1)


class OutputTensor(_Part):
    """A tensor of an answer."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    parameters: Parameters | None = None
    data: list[Any] | None = None


class InferResponse(_Part):
    """The JSON of an answer of `/infer`."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    model_version: str
    id: str | None = None
    outputs: tuple[OutputTensor, ...]


@dataclass(frozen=True, slots=True)
class InferCall:
    """A request that was understood.

    Attributes:
        id: the client's own id.
        pictures: each a file, or uint8 [H, W, C].
        binary: whether the answer's tensor follows the JSON as raw bytes.
        classes: how many classes to name in place of logits; None: logits.
    """

    id: str | None
    pictures: tuple[bytes | Pixels, ...]
    binary: bool
    classes: int | None


def read_call(
    body: bytes, json_length: str | None, *, size: tuple[int, int, int], max_pictures: int
) -> InferCall:
    """Understand a request.

    Args:
        body: JSON, then the raw tensors.
        json_length: the header Inference-Header-Content-Length; None: all is JSON.
        size: height, width and channels that the model takes.
        max_pictures: most pictures in one request.

    Raises:
        MalformedTensorError: it breaks the protocol, or asks for what this model does not have.
        NoPictureError: a batch of 0.
        TooManyPicturesError: a larger batch than allowed.
    """
    split = _json_length(json_length, len(body))
    try:
        request = InferRequest.model_validate_json(body[:split])
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the request"
        _refuse(f"{where}: {first['msg']}")
    tensor = request.inputs[0]
    raw = _raw(tensor, memoryview(body)[split:])
    _check_batch(tensor, max_pictures)
    if tensor.name == IMAGES:
        pictures: tuple[bytes | Pixels, ...] = tuple(_images(tensor, raw, size))
    else:
        pictures = tuple(_files(tensor, raw))
    binary, classes = _wanted(request)
    return InferCall(request.id, pictures, binary, classes)


def _json_length(given: str | None, whole: int) -> int:
    if given is None:
        return whole
    if not (given.isascii() and given.isdigit() and int(given) <= whole):
        _refuse(f"Inference-Header-Content-Length {given[:40]!r} must be 0..{whole}")
    return int(given)


def _raw(tensor: InputTensor, rest: memoryview) -> memoryview | None:
    """The tensor's raw bytes; None where it is in the JSON."""
    if any(name.startswith("shared_memory") for name in tensor.parameters):
        _refuse("shared memory is not offered; send the tensor itself")
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        if len(rest):
            _refuse(f"{len(rest)} bytes follow the JSON and no input has a binary_data_size")
        return None
    if isinstance(size, bool) or size != len(rest):
        _refuse(f"binary_data_size is {size!r} and {len(rest)} bytes follow the JSON")
    return rest


def _check_batch(tensor: InputTensor, max_pictures: int) -> None:
    if not tensor.shape:
        _refuse(f"{tensor.name} must have a batch dimension, given shape []")
    if tensor.shape[0] == 0:
        raise NoPictureError("the batch has no picture")
    if tensor.shape[0] > max_pictures:
        raise TooManyPicturesError(f"more than {max_pictures} pictures in one request")


def _images(tensor: InputTensor, raw: memoryview | None, size: tuple[int, int, int]) -> Pixels:
    """uint8 [B, H, W, C]."""
    expected = (tensor.shape[0], *size)
    if tensor.datatype != "UINT8" or tensor.shape != expected:
        _refuse(
            f"{IMAGES} must be UINT8 {['B', *expected[1:]]}, "
            f"given {tensor.datatype} {list(tensor.shape)}"
        )
    values = _numbers(tensor.data) if raw is None else np.frombuffer(raw, dtype=np.uint8)
    if values.size != math.prod(expected):
        _refuse(f"{IMAGES} needs {math.prod(expected):,} values, given {values.size:,}")
    return values.reshape(expected)  # [B * H * W * C] or as nested -> [B, H, W, C]


def _numbers(data: list[Any] | None) -> Pixels:
    """Numbers 0..255 out of JSON, flat or nested."""
    if data is None:
        _refuse(f"{IMAGES} has neither data nor binary_data_size")
    try:
        values = np.array(data)
    except ValueError:
        _refuse(f"{IMAGES} has rows of different lengths")
    if values.dtype.kind != "i" or values.min() < 0 or values.max() > 255:
        _refuse(f"{IMAGES} must have whole numbers 0..255")
    return values.astype(np.uint8)


def _files(tensor: InputTensor, raw: memoryview | None) -> list[bytes]:
    """Picture files of a BYTES tensor."""
    count = math.prod(tensor.shape)
    if tensor.datatype != "BYTES" or count != tensor.shape[0]:
        _refuse(f"{PICTURES} must be BYTES ['B'], given {tensor.datatype} {list(tensor.shape)}")
    files = list(_flat(tensor.data) if raw is None else _elements(raw))
    if len(files) != count:
        _refuse(f"{PICTURES} needs {count} elements, given {len(files)}")
    return files


def _flat(data: list[Any] | None) -> Iterator[bytes]:
    """Elements out of JSON: base64, since JSON has no bytes."""
    for item in data or ():
        try:
            yield from _flat(item) if isinstance(item, list) else (from_base64(item),)
        except (ValueError, RecursionError) as error:
            _refuse(f"{PICTURES}: {error}")


def _elements(raw: memoryview) -> Iterator[bytes]:
    """Elements out of raw bytes: each after its length, a little-endian uint32."""
    start = 0
    while start < len(raw):
        if start + 4 > len(raw):
            _refuse(f"{PICTURES} ends within an element's length")
        (length,) = struct.unpack_from("<I", raw, start)
        start += 4 + length
        if start > len(raw):
            _refuse(f"{PICTURES} ends within an element of {length} bytes")
        yield bytes(raw[start - length : start])


def _wanted(request: InferRequest) -> tuple[bool, int | None]:
    """Whether raw bytes are wanted, and how many classes."""
    binary = request.parameters.get("binary_data_output") is True
    if not request.outputs:
        return binary, None
    (output,) = request.outputs
    if any(name.startswith("shared_memory") for name in output.parameters):
        _refuse("shared memory is not offered")
    classes = output.parameters.get("classification", 0)
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 0:
        _refuse(f"classification must be a number of classes, given {classes!r}")
    return output.parameters.get("binary_data", binary) is True, classes or None


def answer_of(
    call: InferCall,
    logits: npt.NDArray[np.float32],
    labels: tuple[str, ...],
    model: tuple[str, str],
) -> tuple[bytes, bytes]:
    """An answer as JSON, and the raw bytes that follow it, if any.

    Args:
        call: what was asked.
        logits: [B, K].
        labels: the K classes.
        model: name and version.
    """
    if call.classes is None:
        shape, datatype = logits.shape, "FP32"
        raw = logits.astype("<f4").tobytes() if call.binary else b""
        # float32 as the shortest decimal that reads back as the same float32
        data: list[Any] = [] if call.binary else [float(str(value)) for value in logits.ravel()]
    else:
        data = _named(logits, labels, call.classes)
        shape, datatype = (len(logits), len(data) // len(logits)), "BYTES"
        encoded = (item.encode() for item in data)
        raw = b"".join(struct.pack("<I", len(item)) + item for item in encoded)
    output: dict[str, Any] = {"name": LOGITS, "datatype": datatype, "shape": list(shape)}
    if call.binary:
        output["parameters"] = {"binary_data_size": len(raw)}
    else:
        output["data"] = data
    answer = {"model_name": model[0], "model_version": model[1], "outputs": [output]}
    if call.id is not None:
        answer["id"] = call.id
    return json.dumps(answer, separators=(",", ":")).encode(), raw if call.binary else b""


def _named(logits: npt.NDArray[np.float32], labels: tuple[str, ...], classes: int) -> list[str]:
    """Strings `value:index:label` of the best classes, picture by picture; equal ones in order."""
    best = np.argsort(-logits, axis=1, kind="stable")[:, :classes]  # [B, n]
    return [
        f"{row[index]:f}:{index}:{labels[index]}"
        for row, order in zip(logits, best, strict=True)
        for index in order
    ]


def _refuse(text: str) -> NoReturn:
    raise MalformedTensorError(text) from None
