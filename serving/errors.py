"""What can go wrong between a client and the model; grows the tree of `lavit_deploy.errors`.

LavitError
├── AddressError               the address cannot be listened on           exit 2 (a UsageError)
├── RequestError               the request cannot be understood            HTTP 400
│   ├── MalformedUploadError   the multipart body breaks its format        HTTP 400
│   ├── NoPictureError         a request without a picture                 HTTP 400
│   ├── UploadTimeoutError     the body did not arrive in time             HTTP 408
│   ├── BodyTooLargeError      more bytes than the limit                   HTTP 413
│   ├── TooManyPicturesError   more files than the limit                   HTTP 413
│   ├── UnsupportedBodyError   a content type or encoding not taken here   HTTP 415
│   └── ClientGoneError        the client closed the connection            HTTP 499, in logs only
├── UnavailableError           cannot answer now; try again later          HTTP 503 + Retry-After
│   ├── OverloadedError        every place is taken
│   └── NotReadyError          warming up, stopping or broken
└── UnexpectedError            a fault of the program; details stay in the log   HTTP 500
"""

from __future__ import annotations

from typing import ClassVar

from lavit_deploy.errors import LavitError, UsageError


class AddressError(UsageError):
    """The address cannot be listened on."""


class RequestError(LavitError):
    """The request cannot be understood."""

    http_status = 400


class MalformedUploadError(RequestError):
    """The multipart body breaks its format."""


class NoPictureError(RequestError):
    """A request without a picture."""


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


class ClientGoneError(RequestError):
    """The client closed the connection; nobody reads this answer, the log does."""

    http_status = 499


class UnavailableError(LavitError):
    """The service cannot answer now.

    Attributes:
        retry_after: seconds after which trying again makes sense.
    """

    http_status = 503
    retry_after: ClassVar[int] = 1


class OverloadedError(UnavailableError):
    """Every place in the queue, or all memory for uploads, is taken."""


class NotReadyError(UnavailableError):
    """The model is warming up, stopping, or broken."""

    retry_after = 5


class UnexpectedError(LavitError):
    """A fault of the program: the client learns the request id, the log has the rest."""
