"""What can go wrong between a client and the model; grows the tree of `lavit_deploy.common.errors`.

LavitError
├── AddressError               the address cannot be listened on           exit 2 (a UsageError)
├── IncompatiblePackageError   a package's version is not one of ours      exit 2 (a UsageError)
├── RequestError               the request cannot be understood            HTTP 400
│   ├── MalformedRequestError  the bytes are not HTTP                      HTTP 400
│   ├── MalformedUploadError   the body breaks its format                  HTTP 400
│   ├── MalformedTensorError   a tensor that breaks the inference protocol HTTP 400
│   ├── NoPictureError         a request without a picture                 HTTP 400
│   ├── CrossOriginError       a preflight that breaks the rules           HTTP 400
│   ├── UnauthorizedError      no API key, or none that is known           HTTP 401
│   ├── UnknownModelError      no model of that name and version           HTTP 404
│   ├── HeadTimeoutError       the head did not arrive in time             HTTP 408
│   ├── UploadTimeoutError     the body did not arrive in time             HTTP 408
│   ├── LastModelError         the only model cannot be unloaded           HTTP 409
│   ├── SeveralWorkersError    one worker cannot change the others' models HTTP 409
│   ├── BodyTooLargeError      more bytes than the limit                   HTTP 413
│   ├── TooManyPicturesError   more files than the limit                   HTTP 413
│   ├── UnsupportedBodyError   a content type or encoding not taken here   HTTP 415
│   ├── InvalidParameterError  a value out of its range                    HTTP 422
│   ├── WrongTaskError         the model does something else than asked    HTTP 422
│   ├── ModelRefusedError      a bundle that cannot be served; says why    HTTP 422
│   ├── WrongTaskError         the model does something else               HTTP 422
│   ├── HeadTooLargeError      the path and the headers are too long       HTTP 431
│   ├── ClientGoneError        the client closed the connection            HTTP 499, in logs only
│   ├── UnsupportedTransferCodingError  a body coded otherwise than in chunks  HTTP 501
│   └── UnsupportedVersionError         another HTTP than 1.0 and 1.1          HTTP 505
├── DecodingTimeoutError       a picture takes too long (an ImageError)    HTTP 422
├── DecoderCrashError          a decoder died of a picture (an ImageError) HTTP 422
├── UnavailableError           cannot answer now; try again later          HTTP 503 + Retry-After
│   ├── OverloadedError        every place is taken
│   ├── PredictedWaitError     the wait would be longer than the client's deadline
│   └── NotReadyError          warming up, stopping or broken
├── DeadlineError              the client's deadline passed                HTTP 504
└── UnexpectedError            a fault of the program; details stay in the log   HTTP 500
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from functools import cache
from typing import ClassVar

from lavit_deploy.common.errors import ImageError, LavitError, UsageError


class AddressError(UsageError):
    """The address cannot be listened on."""


class IncompatiblePackageError(UsageError):
    """A package is installed in a version that the service was not written for."""


class RequestError(LavitError):
    """The request cannot be understood."""

    http_status = 400


class MalformedRequestError(RequestError):
    """The bytes are not a request of HTTP/1.1."""


class MalformedUploadError(RequestError):
    """The body breaks its format."""


class MalformedTensorError(RequestError):
    """A tensor breaks the inference protocol, or is not one that the model takes or gives."""


class NoPictureError(RequestError):
    """A request without a picture."""


class CrossOriginError(RequestError):
    """A browser asks whether a page of another origin may do what it may not."""


class UnauthorizedError(RequestError):
    """The request has no API key, or none that is known."""

    http_status = 401


class UnknownModelError(RequestError):
    """There is no model of that name and version."""

    http_status = 404


class HeadTimeoutError(RequestError):
    """The head of the request did not arrive in time."""

    http_status = 408


class UploadTimeoutError(RequestError):
    """The body did not arrive in time."""

    http_status = 408


class BodyTooLargeError(RequestError):
    """The body has more bytes than the limit."""

    http_status = 413


class TooManyPicturesError(RequestError):
    """The request has more files than the limit."""

    http_status = 413


class UnsupportedBodyError(RequestError):
    """The body's content type or encoding is not taken here."""

    http_status = 415


class InvalidParameterError(RequestError):
    """A value is out of its range."""

    http_status = 422


class WrongTaskError(RequestError):
    """The model does something else than what was asked for."""

    http_status = 422


class LastModelError(RequestError):
    """The only model cannot be taken out of service."""

    http_status = 409


class SeveralWorkersError(RequestError):
    """One of several workers cannot change the models of the others."""

    http_status = 409


class ModelRefusedError(RequestError):
    """A bundle that was to be loaded cannot be served; what was served before still is."""

    http_status = 422


class HeadTooLargeError(RequestError):
    """The path and the headers are longer than the limit."""

    http_status = 431


class ClientGoneError(RequestError):
    """The client closed the connection; nobody reads this answer, the log does."""

    http_status = 499


class UnsupportedTransferCodingError(RequestError):
    """The body is coded for its way, and not only in chunks."""

    http_status = 501


class UnsupportedVersionError(RequestError):
    """The request is of another HTTP than 1.0 and 1.1."""

    http_status = 505


class DecodingTimeoutError(ImageError):
    """The picture takes longer to decode than the limit."""

    http_status = 422


class DecoderCrashError(ImageError):
    """A decoder's process died of the picture."""

    http_status = 422


class UnavailableError(LavitError):
    """The service cannot answer now.

    Attributes:
        retry_after: seconds after which trying again makes sense.
    """

    http_status = 503
    retry_after: ClassVar[int] = 1


class OverloadedError(UnavailableError):
    """Every place in the queue, or all memory for uploads, is taken."""


class PredictedWaitError(UnavailableError):
    """The pictures before these would keep the model busy until after the deadline."""


class NotReadyError(UnavailableError):
    """The model is warming up, stopping, or broken."""

    retry_after = 5


class DeadlineError(LavitError):
    """The deadline passed before the answer was ready."""

    http_status = 504


class UnexpectedError(LavitError):
    """A fault of the program: the client learns the request id, the log has the rest."""


def shortage(error: BaseException) -> OverloadedError | None:
    """What something really failed of where this process, or the system, can open no more files.

    An import that cannot read its module says so in a cause or a context only.
    """
    for each in _chain(error):
        if isinstance(each, OSError) and each.errno in {errno.EMFILE, errno.ENFILE}:
            return OverloadedError("no file descriptor is left; the limit is that of ulimit -n")
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def kind_of(error: LavitError | type[LavitError]) -> str:
    """Slug of an error's class: `CorruptImageError` is "corrupt-image"."""
    kind = error if isinstance(error, type) else type(error)
    return _slug(kind.__name__.removesuffix("Error"))


@cache
def _slug(name: str) -> str:
    return "-".join(re.findall(r"[A-Z][a-z]+", name)).lower()
