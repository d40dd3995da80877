"""One opened runtime in a thread of its own; where it breaks, it is opened again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from lavit_deploy.common.errors import InferenceError
from lavit_deploy.preprocess import Pixels
from lavit_deploy.runtimes.base import Logits, Runtime
from lavit_deploy.serving.batching.backoff import Backoff
from lavit_deploy.serving.batching.call_thread import CallThread

_log = logging.getLogger("serving.instance")

FAILURES_UNTIL_BROKEN = 3
"""Failed batches in a row after which the runtime counts as broken: one may be bad luck."""

_REOPENING = 300.0
"""Seconds for opening and warming up; an engine may have to be compiled."""

T = TypeVar("T")


class _Opened:
    """A runtime and the thread that calls it. Both are given up together.

    Attributes:
        stuck: a call has not come back, so the thread cannot be waited for.
    """

    def __init__(self, name: str, runtime: Runtime | None) -> None:
        self.stuck = False
        self._runtime = runtime
        self._thread = CallThread(name)

    async def open(self, opener: Callable[[], Runtime]) -> None:
        await self._within(_REOPENING, self._thread.run(self._open, opener))

    def _open(self, opener: Callable[[], Runtime]) -> None:
        self._runtime = opener()

    async def infer(self, images: Pixels, seconds: float | None) -> Logits:
        return await self._within(seconds, self._thread.run(self._infer, images))

    def _infer(self, images: Pixels) -> Logits:
        if self._runtime is None:
            raise InferenceError("the runtime is not open")
        return self._runtime.infer(images)

    async def _within(self, seconds: float | None, call: Awaitable[T]) -> T:
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await call
        except TimeoutError:
            if not limit.expired():  # the call's own
                raise
            self.stuck = True
            raise InferenceError(f"the runtime has not come back for {seconds:g} s") from None
        except asyncio.CancelledError:
            self.stuck = True
            raise

    async def end(self, timeout: float) -> bool:  # noqa: ASYNC109 - passed to a thread
        """Free the runtime; one that is stuck is freed by its thread, should it ever come back.

        Returns:
            Whether the thread has ended.
        """
        if self.stuck:
            self._thread.abandon(self._close)
            return await asyncio.to_thread(self._thread.join, timeout)
        ended = await asyncio.to_thread(self._thread.stop, timeout)
        if ended:
            await asyncio.to_thread(self._close)
        return ended

    def _close(self) -> None:
        if self._runtime is not None:
            self._runtime.close()
        self._runtime = None


class RuntimeInstance:
    """Runs batches one at a time, and comes back after a fault.

    Broken is a runtime after some failed batches in a row, or a batch that did not come back.
    It is then opened again and run on black pictures, until that succeeds, with growing delays.

    Args:
        name: of its thread.
        runtime: opened; it is closed here.
        reopen: opens it once more; blocks.
        black: batches to warm up with, [B, H, W, C] each.
        seconds: longest time of a batch.
        backoff: delays before opening again.
        on_restart: told of every attempt to open it again, and whether it succeeded.

    Attributes:
        busy: whether a batch is under way.
        fault: why it takes no batches; None while it does.
    """

    def __init__(
        self,
        name: str,
        runtime: Runtime,
        *,
        reopen: Callable[[], Runtime],
        black: Sequence[Pixels],
        seconds: float,
        backoff: Backoff,
        on_restart: Callable[[bool], None],
    ) -> None:
        self._name = name
        self._opened = _Opened(name, runtime)
        self._reopen = reopen
        self._black = black
        self._seconds = seconds
        self._backoff = backoff
        self._on_restart = on_restart
        self._failures = 0
        self._restart: asyncio.Task[None] | None = None
        self.busy = False
        self.fault: str | None = None

    @property
    def idle(self) -> bool:
        """Whether it would begin a batch at once."""
        return not self.busy and self.fault is None

    @property
    def stuck(self) -> bool:
        """Whether a call has not come back; what it reads must not be written to."""
        return self._opened.stuck

    async def warm_up(self, images: Pixels) -> None:
        """Run a batch that no client waits for, however long it takes.

        Raises:
            InferenceError: the runtime failed.
        """
        await self._opened.infer(images, None)

    async def infer(self, images: Pixels) -> Logits:
        """Run a batch.

        Raises:
            InferenceError: the runtime failed, or did not come back within the limit.
        """
        return await self._opened.infer(images, self._seconds)

    def succeeded(self) -> None:
        """Take note of a batch that was answered."""
        self._failures = 0
        self._backoff.reset()

    def failed(self) -> None:
        """Take note of a batch that failed; begins to open the runtime again where it is broken."""
        self._failures += 1
        if self._opened.stuck:
            self._break(f"a batch has not come back for {self._seconds:g} s")
        elif self._failures >= FAILURES_UNTIL_BROKEN:
            self._break(f"the last {self._failures} batches failed")

    def _break(self, fault: str) -> None:
        if self.fault is not None:
            return
        self.fault = f"{fault}; the model is opened again"
        _log.error("%s is broken: %s", self._name, self.fault)
        self._restart = asyncio.create_task(self._come_back(), name="restart")

    async def _come_back(self) -> None:
        while True:
            await asyncio.sleep(self._backoff.delay())
            try:
                await self._open_again()
            except Exception:  # noqa: BLE001 - whatever it is, there is another attempt
                _log.exception("%s cannot be opened again yet", self._name)
                self._on_restart(False)
            else:
                break
        self._failures = 0
        self.fault = None
        _log.info("%s works again", self._name)
        self._on_restart(True)

    async def _open_again(self) -> None:
        # First, so that its memory is free; nothing is to be expected of one that is stuck.
        await self._opened.end(0 if self._opened.stuck else self._seconds)
        self._opened = _Opened(self._name, None)
        await self._opened.open(self._reopen)
        for images in self._black:
            await self._opened.infer(images, _REOPENING)

    async def close(self, timeout: float) -> bool:  # noqa: ASYNC109 - passed to a thread
        """Stop the thread and free the runtime.

        Returns:
            Whether the last batch was finished within `timeout` seconds.
        """
        if self._restart is not None and not self._restart.done():
            self._restart.cancel()
            await asyncio.gather(self._restart, return_exceptions=True)
            timeout = 0 if self._opened.stuck else timeout
        return await self._opened.end(timeout)
