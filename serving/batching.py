"""From single pictures to batches: the queue between HTTP and the runtime.

Everything here runs on the event loop, so nothing is locked; only `Runtime.infer` runs elsewhere,
in its own thread. A batch leaves when

- it is full, whether or not the runtime is busy: it is assembled while the one before it runs;
- the runtime is idle and no accepted picture is still being decoded, so waiting would be in vain;
- the runtime is idle and the oldest picture has waited `max_wait` seconds for those still decoding.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lavit_deploy.errors import InferenceError
from lavit_deploy.preprocess import Pixels
from lavit_deploy.runtimes.base import Logits, Runtime
from serving.errors import NotReadyError, OverloadedError, PredictedWaitError
from serving.pace import Pace
from serving.worker import Worker

_log = logging.getLogger("serving.batching")

FAILURES_UNTIL_BROKEN = 3
"""Failed batches in a row after which the runtime counts as broken: one may be bad luck."""


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """Sizes and times of a batcher.

    Attributes:
        min_batch: smallest batch the artifact takes; smaller ones are padded with black.
        max_batch: largest batch.
        max_wait: longest time an idle runtime waits for pictures that are being decoded, seconds.
        capacity: most pictures accepted and not yet answered.
    """

    min_batch: int
    max_batch: int
    max_wait: float
    capacity: int


@dataclass(frozen=True, slots=True)
class Inferred:
    """A picture's logits and how they came about.

    Attributes:
        logits: float32 [K].
        queue_seconds: from the picture's arrival until its batch started.
        infer_seconds: time of the whole batch in the runtime.
        batch: pictures in that batch.
    """

    logits: npt.NDArray[np.float32]
    queue_seconds: float
    infer_seconds: float
    batch: int


@dataclass(eq=False, slots=True)
class _Job:
    pixels: Pixels  # [H, W, 3]
    arrived: float
    answer: asyncio.Future[Inferred]


class Places:
    """Room that one request holds in the queue, taken before its pictures are decoded."""

    def __init__(self, batcher: Batcher, count: int) -> None:
        self._batcher = batcher
        self.coming = count

    async def infer(self, pixels: Pixels) -> Inferred:
        """Put one decoded picture, uint8 [H, W, 3], into the queue and wait for its logits.

        Raises:
            InferenceError: the runtime failed on the picture's batch.
            NotReadyError: the service stopped before the batch ran.
        """
        self._arrive()
        return await self._batcher._enqueue(pixels)  # noqa: SLF001 - two halves of one queue

    def give_up(self) -> None:
        """Say that one of the pictures will not come, so that no batch waits for it."""
        self._arrive()

    def _arrive(self) -> None:
        if self.coming <= 0:
            raise RuntimeError("more pictures than places were taken for")
        self.coming -= 1
        self._batcher._one_less_coming()  # noqa: SLF001 - two halves of one queue


class Batcher:
    """Collects pictures into batches and runs them one batch at a time.

    Args:
        runtime: an opened artifact; it is called from one thread only, and not closed here.
        limits: sizes and times.
        on_batch: told each batch's size and seconds in the runtime.
    """

    def __init__(
        self,
        runtime: Runtime,
        limits: BatchLimits,
        *,
        on_batch: Callable[[int, float], None],
    ) -> None:
        self._runtime = runtime
        self._limits = limits
        self._on_batch = on_batch
        picture = [size or 1 for size in runtime.input.shape[1:]]  # [H, W, 3]
        # Two, because the next batch is assembled while the last one runs.
        self._buffers = tuple(
            np.zeros((max(limits.min_batch, limits.max_batch), *picture), dtype=np.uint8)
            for _ in range(2)
        )
        self._turn = 0
        self._worker = Worker("runtime")
        self._waiting: deque[_Job] = deque()
        self._taken = 0
        self._coming = 0
        self._changed = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._dispatcher: asyncio.Task[None] | None = None
        self._failures = 0
        self._closing = False
        self._pace = Pace()

    @property
    def depth(self) -> int:
        """Decoded pictures that wait for the runtime."""
        return len(self._waiting)

    @property
    def taken(self) -> int:
        """Pictures accepted and not yet answered."""
        return self._taken

    def predicted_wait(self, count: int = 1) -> float:
        """Seconds until `count` more pictures would be answered; 0 before the warm-up."""
        idle = not self._taken
        return self._pace.seconds(self._taken + count, self._limits.max_batch, idle=idle)

    @property
    def fault(self) -> str | None:
        """Why this batcher cannot be relied on; None while it can."""
        if self._dispatcher is not None and self._dispatcher.done() and not self._closing:
            return "the batching task ended unexpectedly"
        if self._failures >= FAILURES_UNTIL_BROKEN:
            return f"the last {self._failures} batches failed"
        return None

    async def warm_up(self) -> None:
        """Run the smallest and the largest batch once, so that no client pays for first calls.

        Raises:
            InferenceError: the runtime fails on black pictures.
        """
        for size in sorted({self._limits.min_batch, self._limits.max_batch}):
            # Twice: a runtime's first call of a size also prepares for it.
            for _ in range(2):
                started = time.perf_counter()
                await self._worker.run(self._runtime.infer, self._buffers[0][:size])
                self._pace.measured(size, time.perf_counter() - started)

    def start(self) -> None:
        """Begin to take batches; needs a running event loop."""
        self._dispatcher = asyncio.create_task(self._dispatch(), name="batching")
        self._dispatcher.add_done_callback(self._dispatch_ended)

    @contextmanager
    def places(self, count: int, deadline: float | None = None) -> Iterator[Places]:
        """Hold room for `count` pictures, from before they are decoded until they are answered.

        Args:
            count: how many.
            deadline: when they must be answered, on the event loop's clock; None: whenever.

        Raises:
            OverloadedError: there is not that much room.
            PredictedWaitError: by past batches, they would not be answered before the deadline.
            NotReadyError: not started, stopping, or the batching task is gone.
        """
        if self._dispatcher is None or self._closing or self._dispatcher.done():
            raise NotReadyError("the model takes no pictures now")
        if self._taken + count > self._limits.capacity:
            raise OverloadedError(
                f"{self._taken} pictures are waiting and the limit is {self._limits.capacity}: "
                f"no room for {count} more now"
            )
        wait = self.predicted_wait(count)
        if deadline is not None and asyncio.get_running_loop().time() + wait > deadline:
            raise PredictedWaitError(
                f"{self._taken} pictures are waiting: an answer would take {wait * 1e3:.0f} ms, "
                "longer than the deadline leaves"
            )
        self._taken += count
        self._coming += count
        places = Places(self, count)
        try:
            yield places
        finally:
            self._taken -= count
            self._coming -= places.coming
            self._changed.set()

    async def close(self, timeout: float) -> bool:  # noqa: ASYNC109 - spans several awaits
        """Finish every picture that was accepted, then stop the thread.

        Args:
            timeout: seconds to wait for them; what is left then fails with `NotReadyError`.

        Returns:
            Whether everything was finished in time.
        """
        self._closing = True
        self._changed.set()
        if self._dispatcher is not None:
            await asyncio.wait({self._dispatcher}, timeout=timeout)
            self._dispatcher.cancel()
        stuck = self._running is not None
        if self._running is not None:
            self._running.cancel()
        self._fail_waiting()
        if stuck or not await asyncio.to_thread(self._worker.stop, timeout):
            _log.error("the runtime did not finish its last batch within %g s", timeout)
            return False
        return True

    async def _enqueue(self, pixels: Pixels) -> Inferred:
        job = _Job(pixels, time.perf_counter(), asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._changed.set()
        try:
            return await job.answer
        except asyncio.CancelledError:
            with suppress(ValueError):  # its batch may have left already
                self._waiting.remove(job)
            raise

    def _one_less_coming(self) -> None:
        self._coming -= 1
        self._changed.set()

    async def _dispatch(self) -> None:
        while batch := await self._next_batch():
            try:
                images = self._assemble(batch)  # while the batch before this one runs
                if self._running is not None:
                    await asyncio.wait({self._running})
            except BaseException:  # cancelled, or a fault: nobody else knows these pictures now
                _stop(batch)
                raise
            self._running = asyncio.create_task(self._run(batch, images), name="batch")
        if self._running is not None:
            await asyncio.wait({self._running})

    async def _next_batch(self) -> list[_Job]:
        """Wait until a batch should leave; an empty one means that all is done."""
        while True:
            self._changed.clear()
            if len(self._waiting) >= self._limits.max_batch:
                return self._take()
            deadline = None
            if self._waiting and self._running is None:
                deadline = self._waiting[0].arrived + self._limits.max_wait
                if not self._coming or time.perf_counter() >= deadline:
                    return self._take()
            if self._closing and not self._waiting and not self._coming:
                return []
            remaining = None if deadline is None else deadline - time.perf_counter()
            with suppress(TimeoutError):
                async with asyncio.timeout(remaining):
                    await self._changed.wait()

    def _take(self) -> list[_Job]:
        size = min(len(self._waiting), self._limits.max_batch)
        return [self._waiting.popleft() for _ in range(size)]

    def _assemble(self, batch: list[_Job]) -> Pixels:
        """Pictures [H, W, 3] to one array [B, H, W, 3], padded to the smallest batch."""
        self._turn = 1 - self._turn
        images = self._buffers[self._turn][: max(len(batch), self._limits.min_batch)]
        # B x [H, W, 3] -> [B, H, W, 3]
        np.stack([job.pixels for job in batch], out=images[: len(batch)])
        images[len(batch) :] = 0
        return images

    async def _run(self, batch: list[_Job], images: Pixels) -> None:
        started = time.perf_counter()
        try:
            logits = await self._worker.run(self._runtime.infer, images)
            seconds = time.perf_counter() - started
            self._answer(batch, logits, started, seconds)
            self._failures = 0
            self._pace.observed(len(images), seconds)
            self._on_batch(len(batch), seconds)
        except Exception:  # noqa: BLE001 - whatever a runtime raises costs one batch
            self._failures += 1
            _log.exception("the runtime failed on a batch of %d", len(batch))
            for job in batch:
                _fail(job, InferenceError("the model failed while this picture was classified"))
        finally:
            _stop(batch)  # finds unanswered pictures only where this task was cancelled
            self._running = None
            self._changed.set()

    def _answer(self, batch: list[_Job], logits: Logits, started: float, seconds: float) -> None:
        if len(logits) < len(batch):
            raise InferenceError(f"the runtime gave {len(logits)} answers to {len(batch)} pictures")
        for job, row in zip(batch, logits, strict=False):  # rows of padding have no job
            if not job.answer.done():
                job.answer.set_result(Inferred(row, started - job.arrived, seconds, len(batch)))

    def _dispatch_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.critical("the batching task ended unexpectedly", exc_info=error)
            self._fail_waiting()

    def _fail_waiting(self) -> None:
        _stop(self._waiting)
        self._waiting.clear()


def _stop(jobs: Iterable[_Job]) -> None:
    for job in jobs:
        _fail(job, NotReadyError("the service stopped before this picture was classified"))


def _fail(job: _Job, error: Exception) -> None:
    if not job.answer.done():
        job.answer.set_exception(error)
