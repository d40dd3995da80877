"""Until when a client wants its answer, and no answer after that."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from starlette.requests import Request

from lavit_deploy.serving.errors import DeadlineError, InvalidParameterError

HEADER = "X-Request-Timeout-Ms"
LONGEST_MS = 3_600_000
"""An hour: more digits are a mistake of the client."""

T = TypeVar("T")

DEADLINE_DOC: dict[str, Any] = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": (
        "Milliseconds after which the answer is of no use: refused at once with 503 if the wait "
        "would be longer, 504 if it passes. Without it, the server's own limit."
    ),
    "schema": {"type": "integer", "minimum": 1, "maximum": LONGEST_MS},
}
"""OpenAPI's description of the header."""


def deadline_of(request: Request, default_seconds: float) -> float:
    """When the answer must be there, on the event loop's clock; call it as the request arrives.

    Args:
        request: may carry the header.
        default_seconds: what a request without it gets.

    Raises:
        InvalidParameterError: the header is no number of milliseconds.
    """
    now = asyncio.get_running_loop().time()
    return now + seconds_of(request.headers, default_seconds)


def seconds_of(headers: Mapping[str, str], default_seconds: float) -> float:
    """For how long a client waits for its answer.

    Args:
        headers: of its request.
        default_seconds: what a request without the header gets.

    Raises:
        InvalidParameterError: the header is no number of milliseconds.
    """
    given = headers.get(HEADER)
    if given is None:
        return default_seconds
    if not re.fullmatch(r"[0-9]{1,7}", given) or not 1 <= int(given) <= LONGEST_MS:
        raise InvalidParameterError(
            f"{HEADER}: must be 1..{LONGEST_MS} milliseconds, given {given[:40]!r}"
        )
    return int(given) / 1e3


async def within_deadline(deadline: float, work: Coroutine[Any, Any, T]) -> T:
    """Await `work` until the deadline, then cancel it.

    Raises:
        DeadlineError: the deadline passed first.
    """
    limit = asyncio.timeout_at(deadline)
    try:
        async with limit:
            return await work
    except TimeoutError:
        if not limit.expired():
            raise
        raise DeadlineError("the deadline passed before the answer was ready") from None
