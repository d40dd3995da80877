"""A thread that runs one call at a time and is awaited from an event loop."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class _Call(Generic[T]):
    function: Callable[[], T]
    answer: Future[T]
    last: bool = False

    def run(self) -> None:
        if not self.answer.set_running_or_notify_cancel():
            return
        try:
            result = self.function()
        except BaseException as error:  # noqa: BLE001 - whoever awaits must get an answer
            # SystemExit would end the event loop that awaits it, not this thread.
            failure = error if isinstance(error, Exception) else RuntimeError(repr(error))
            self.answer.set_exception(failure)
        else:
            self.answer.set_result(result)


class CallThread:
    """One daemon thread, so that a call that never returns cannot keep the process alive.

    Args:
        name: the thread's name.
    """

    def __init__(self, name: str) -> None:
        # One call, and the order to end after it.
        self._calls: queue.Queue[_Call[Any] | None] = queue.Queue(maxsize=2)
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call.run()
            if call.last:
                return

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` in the thread.

        Raises:
            queue.Full: calls are already waiting; callers take turns.
        """
        answer: Future[T] = Future()
        self._calls.put_nowait(_Call(lambda: function(*args, **kwargs), answer))
        return await asyncio.wrap_future(answer)

    def abandon(self, function: Callable[[], object]) -> None:
        """Have the thread run `function` and end, should the call that runs ever come back."""
        self._calls.put_nowait(_Call(function, Future(), last=True))

    def stop(self, timeout: float) -> bool:
        """End the thread after the call that runs, if any.

        Args:
            timeout: seconds to wait for it.

        Returns:
            Whether it has ended.
        """
        try:
            self._calls.put(None, timeout=timeout)
        except queue.Full:
            return False
        return self.join(timeout)

    def join(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for the thread to end; whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()
