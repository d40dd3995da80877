"""From single pictures to batches: the queue between a front and the runtime.

Everything here runs on the event loop, so nothing is locked; only the runtime's instances run
elsewhere, each in its own thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from lavit_deploy.runtimes.base import Runtime
from lavit_deploy.serving.batching.backoff import Backoff
from lavit_deploy.serving.batching.batch_former import BatchFormer
from lavit_deploy.serving.batching.padding import PaddedSizes
from lavit_deploy.serving.batching.picture_queue import Job, PictureQueue, Reservation, refuse
from lavit_deploy.serving.batching.runtime_pool import AssembledBatch, RuntimePool
from lavit_deploy.serving.batching.waits import WaitPredictor
from lavit_deploy.serving.errors import NotReadyError

_log = logging.getLogger("serving.batching")


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """Sizes and times of a batcher.

    Attributes:
        sizes: the sizes of batches, which are padded to them with black.
        max_wait: longest time an idle runtime waits for pictures that are being decoded, seconds.
        capacity: most pictures accepted and not yet answered.
        infer_seconds: longest time of a batch; then its instance counts as broken.
    """

    sizes: PaddedSizes
    max_wait: float
    capacity: int
    infer_seconds: float


class Batcher:
    """Collects pictures into batches and runs each on whichever instance is idle.

    Args:
        runtimes: the artifact, opened once or several times; closed here.
        limits: sizes and times.
        reopen: opens the artifact once more; blocks.
        on_batch: told each batch's size and seconds in the runtime.
        on_restart: told of every attempt to open a broken runtime again, and whether it succeeded.
        backoff: makes the delays between such attempts.
    """

    def __init__(
        self,
        runtimes: Sequence[Runtime],
        limits: BatchLimits,
        *,
        reopen: Callable[[], Runtime],
        on_batch: Callable[[int, float], None],
        on_restart: Callable[[bool], None],
        backoff: Callable[[], Backoff] = Backoff,
    ) -> None:
        waits = WaitPredictor(limits.sizes.maximum)
        self._on_batch = on_batch
        self._on_restart = on_restart
        self._queue = PictureQueue(limits.capacity, waits, instances=lambda: self._pool.working)
        self._pool = RuntimePool(
            runtimes,
            sizes=limits.sizes,
            infer_seconds=limits.infer_seconds,
            waits=waits,
            reopen=reopen,
            backoff=backoff,
            on_batch=self._batch_ran,
            on_restart=self._restarted,
            on_change=self._queue.notify,
        )
        self._former = BatchFormer(
            self._queue,
            waits,
            max_batch=limits.sizes.maximum,
            max_wait=limits.max_wait,
            idle=lambda: self._pool.idle,
        )
        self._assembled: list[Job] = []
        self._dispatcher: asyncio.Task[None] | None = None
        self._reviving: asyncio.Task[None] | None = None
        self._backoff = backoff()

    @property
    def depth(self) -> int:
        """Decoded pictures that wait for the runtime."""
        return len(self._queue)

    @property
    def accepted(self) -> int:
        """Pictures accepted and not yet answered."""
        return self._queue.accepted

    @property
    def full(self) -> bool:
        """Whether there is no place for one more picture."""
        return self._queue.full

    def predicted_wait(self, count: int = 1) -> float:
        """Seconds until `count` more pictures would be answered; 0 before the warm-up."""
        return self._queue.predicted_wait(count)

    @property
    def working(self) -> int:
        """Instances that take batches."""
        return self._pool.working

    @property
    def fault(self) -> str | None:
        """Why this batcher cannot be relied on; None while it can."""
        if self._dispatcher is not None and self._dispatcher.done() and not self._queue.closed:
            return "the batching task ended unexpectedly"
        return self._pool.fault

    async def warm_up(self) -> None:
        """Run every size that is special, so that no client pays for first calls.

        Raises:
            InferenceError: the runtime fails on black pictures.
        """
        await self._pool.warm_up()

    def start(self) -> None:
        """Begin to take batches; needs a running event loop."""
        self._dispatcher = asyncio.create_task(self._dispatch(), name="batching")
        self._dispatcher.add_done_callback(self._dispatch_ended)

    def reserve(
        self, count: int, deadline: float | None = None
    ) -> AbstractContextManager[Reservation]:
        """Hold places for `count` pictures, from before they are decoded until they are answered.

        Args:
            count: how many.
            deadline: when they must be answered, on the event loop's clock; None: whenever.

        Raises:
            OverloadedError: there are not that many.
            PredictedWaitError: by past batches, they would not be answered before the deadline.
            NotReadyError: not started, stopping, or broken.
        """
        if self._dispatcher is None or self._queue.closed:
            raise NotReadyError("the model takes no pictures now")
        if (fault := self.fault) is not None:
            raise NotReadyError(fault)
        return self._queue.reserve(count, deadline)

    async def close(self, timeout: float) -> bool:  # noqa: ASYNC109 - spans several awaits
        """Finish every picture that was accepted, then stop the threads and free the runtimes.

        Args:
            timeout: seconds to wait for them; what is left then fails with `NotReadyError`.

        Returns:
            Whether everything was finished in time.
        """
        self._queue.closed = True
        self._queue.notify()
        if self._reviving is not None:
            self._reviving.cancel()
        if self._dispatcher is not None:
            await asyncio.wait({self._dispatcher}, timeout=timeout)
            self._dispatcher.cancel()
        self._refuse_waiting()  # freeing the runtimes may take time
        finished = await self._pool.close(timeout)
        self._refuse_waiting()
        return finished

    async def _dispatch(self) -> None:
        while jobs := await self._former.next_batch():
            self._assembled = jobs
            try:
                batch = self._pool.assemble(jobs)  # while the batches before this one run
                await self._start(batch)
            except BaseException:  # cancelled, or a fault: nobody else knows these pictures now
                refuse(jobs)
                raise
            finally:
                self._assembled = []
        await self._pool.finish()

    async def _start(self, batch: AssembledBatch) -> None:
        """Begin a batch as soon as an instance is idle, unless nobody waits for it any more."""
        while not all(job.answer.done() for job in batch.jobs):
            if self._pool.start(batch):
                return
            await self._queue.change()
        self._pool.drop(batch)

    def _dispatch_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.critical("the batching task ended unexpectedly", exc_info=error)
            self._refuse_waiting()
            if not self._queue.closed:
                self._reviving = asyncio.create_task(self._revive(), name="revive")

    async def _revive(self) -> None:
        await asyncio.sleep(self._backoff.delay())
        self.start()
        self._on_restart(True)

    def _batch_ran(self, pictures: int, seconds: float) -> None:
        self._backoff.reset()
        self._on_batch(pictures, seconds)

    def _restarted(self, success: bool) -> None:  # noqa: FBT001 - a callback's only argument
        self._on_restart(success)
        if not success and not self.working:  # their clients had better ask elsewhere
            self._refuse_waiting()
        self._queue.notify()

    def _refuse_waiting(self) -> None:
        self._queue.refuse_all()
        refuse(self._assembled)
