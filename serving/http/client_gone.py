"""Work for a client ends when the client goes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from lavit_deploy.serving.errors import ClientGoneError

_LOOK_AFTER = 0.1
"""Seconds of work before anybody looks: most of it ends sooner, and a task for the look costs."""

T = TypeVar("T")


async def cancel_when_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, and cancel it when the client closes the connection.

    Args:
        request: whose client it is; its body must have been read.
        work: what is done for it.

    Raises:
        ClientGoneError: the client left first.
    """
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a task must await this")
    cancelling, ended, gone = task.cancelling(), False, False
    leaving: asyncio.Task[None] | None = None

    def leave(_: asyncio.Task[None]) -> None:
        nonlocal gone
        if not ended:  # a callback may come after the work, and would cancel what follows it
            gone = True
            task.cancel()

    def watch() -> None:
        nonlocal leaving
        leaving = asyncio.ensure_future(_disconnected(request))
        leaving.add_done_callback(leave)

    watching = asyncio.get_running_loop().call_later(_LOOK_AFTER, watch)
    try:
        return await work
    except asyncio.CancelledError:
        # As asyncio.timeout does: somebody else may have cancelled the task, too.
        if gone and task.uncancel() <= cancelling:
            raise ClientGoneError("the client left before the answer was ready") from None
        raise
    finally:
        ended = True
        watching.cancel()
        if leaving is not None:
            leaving.cancel()


async def _disconnected(request: Request) -> None:
    """Return when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
