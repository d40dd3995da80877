"""From single pictures to batches: the queue between HTTP and the runtime.

Everything here runs on the event loop, so nothing is locked; only the runtime's instances run
elsewhere, each in its own thread. A batch leaves when

- it is full, whether or not an instance is idle: it is assembled while those before it run;
- an instance is idle and no accepted picture is still being decoded, so waiting would be in vain;
- an instance is idle and the oldest picture has waited `max_wait` seconds for those still decoding.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lavit_deploy.common.errors import InferenceError
from lavit_deploy.preprocess import Pixels
from lavit_deploy.runtimes.base import Logits, Runtime
from lavit_deploy.serving.batching.backoff import Backoff
from lavit_deploy.serving.batching.batch_time import Pace
from lavit_deploy.serving.batching.lateness import Slack
from lavit_deploy.serving.batching.padding import Buckets
from lavit_deploy.serving.batching.runtime_instance import Instance
from lavit_deploy.serving.errors import (
    DeadlineError,
    NotReadyError,
    OverloadedError,
    PredictedWaitError,
)

_log = logging.getLogger("serving.batching")


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """Sizes and times of a batcher.

    Attributes:
        buckets: the sizes of batches, which are padded to them with black.
        max_wait: longest time an idle runtime waits for pictures that are being decoded, seconds.
        capacity: most pictures accepted and not yet answered.
        infer_seconds: longest time of a batch; then its instance counts as broken.
    """

    buckets: Buckets
    max_wait: float
    capacity: int
    infer_seconds: float


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
    places: Places
    arrived: float
    answer: asyncio.Future[Inferred]


class Places:
    """Room that one request holds in the queue, taken before its pictures are decoded."""

    def __init__(
        self, batcher: Batcher, count: int, predicted: float, deadline: float | None
    ) -> None:
        self._batcher = batcher
        self.coming = count
        self.admitted = time.perf_counter()
        self.predicted = predicted  # seconds until the answer
        self.deadline = deadline  # on the event loop's clock

    async def infer(self, pixels: Pixels) -> Inferred:
        """Put one decoded picture, uint8 [H, W, 3], into the queue and wait for its logits.

        Raises:
            DeadlineError: a batch begun now would end after the deadline.
            InferenceError: the runtime failed on the picture's batch.
            NotReadyError: the service stopped before the batch ran.
        """
        self._arrive()
        return await self._batcher._enqueue(pixels, self)  # noqa: SLF001 - two halves of one queue

    def give_up(self) -> None:
        """Say that one of the pictures will not come, so that no batch waits for it."""
        self._arrive()

    def _arrive(self) -> None:
        if self.coming <= 0:
            raise RuntimeError("more pictures than places were taken for")
        self.coming -= 1
        self._batcher._one_less_coming()  # noqa: SLF001 - two halves of one queue


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
        self._limits = limits
        self._on_batch = on_batch
        self._on_restart = on_restart
        self._sizes = limits.buckets.sizes()
        picture = [size or 1 for size in runtimes[0].input.shape[1:]]  # [H, W, 3]
        self._shape = (self._sizes[-1], *picture)
        black = np.zeros(self._shape, dtype=np.uint8)  # [B, H, W, 3]
        self._black = [black[:size] for size in self._sizes]
        self._instances = tuple(
            Instance(
                f"runtime-{number}",
                runtime,
                reopen=reopen,
                black=self._black,
                seconds=limits.infer_seconds,
                backoff=backoff(),
                restarted=self._restarted,
            )
            for number, runtime in enumerate(runtimes)
        )
        # One more than run, because the next batch is assembled meanwhile.
        self._buffers = [np.zeros(self._shape, dtype=np.uint8) for _ in range(len(runtimes) + 1)]
        self._waiting: deque[_Job] = deque()
        self._assembled: list[_Job] = []
        self._taken = 0
        self._coming = 0
        self._changed = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._dispatcher: asyncio.Task[None] | None = None
        self._reviving: asyncio.Task[None] | None = None
        self._backoff = backoff()
        self._closing = False
        self._pace = Pace()
        self._slack = Slack()

    @property
    def depth(self) -> int:
        """Decoded pictures that wait for the runtime."""
        return len(self._waiting)

    @property
    def taken(self) -> int:
        """Pictures accepted and not yet answered."""
        return self._taken

    @property
    def full(self) -> bool:
        """Whether there is no place for one more picture."""
        return self._taken >= self._limits.capacity

    def predicted_wait(self, count: int = 1) -> float:
        """Seconds until `count` more pictures would be answered; 0 before the warm-up."""
        return self._with_slack(self._batches_ahead(count))

    def _with_slack(self, batches: float) -> float:
        return max(0.0, batches + self._slack.seconds) if self._taken else batches

    def _batches_ahead(self, count: int) -> float:
        """Seconds of the batches that so many more pictures would wait for, theirs included."""
        return self._pace.seconds(
            self._taken + count,
            self._limits.buckets.maximum,
            idle=not self._taken,
            instances=max(1, self.working),
        )

    @property
    def working(self) -> int:
        """Instances that take batches."""
        return sum(instance.fault is None for instance in self._instances)

    @property
    def fault(self) -> str | None:
        """Why this batcher cannot be relied on; None while it can."""
        if self._dispatcher is not None and self._dispatcher.done() and not self._closing:
            return "the batching task ended unexpectedly"
        return None if self.working else self._instances[0].fault

    async def warm_up(self) -> None:
        """Run every size that is special, so that no client pays for first calls.

        Raises:
            InferenceError: the runtime fails on black pictures.
        """
        for instance in self._instances:
            for images in self._black:
                # Twice: a runtime's first call of a size also prepares for it.
                for _ in range(2):
                    started = time.perf_counter()
                    await instance.warm_up(images)
                    self._pace.measured(len(images), time.perf_counter() - started)

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
            NotReadyError: not started, stopping, or broken.
        """
        if self._dispatcher is None or self._closing:
            raise NotReadyError("the model takes no pictures now")
        if self.fault is not None:
            raise NotReadyError(self.fault)
        if self._taken + count > self._limits.capacity:
            raise OverloadedError(
                f"{self._taken} pictures are waiting and the limit is {self._limits.capacity}: "
                f"no room for {count} more now"
            )
        predicted = self._batches_ahead(count)
        wait = self._with_slack(predicted)
        if deadline is not None and asyncio.get_running_loop().time() + wait > deadline:
            raise PredictedWaitError(
                f"{self._taken} pictures are waiting: an answer would take {wait * 1e3:.0f} ms, "
                "longer than the deadline leaves"
            )
        self._taken += count
        self._coming += count
        places = Places(self, count, predicted, deadline)
        try:
            yield places
        finally:
            self._taken -= count
            self._coming -= places.coming
            self._changed.set()

    async def close(self, timeout: float) -> bool:  # noqa: ASYNC109 - spans several awaits
        """Finish every picture that was accepted, then stop the threads and free the runtimes.

        Args:
            timeout: seconds to wait for them; what is left then fails with `NotReadyError`.

        Returns:
            Whether everything was finished in time.
        """
        self._closing = True
        self._changed.set()
        if self._reviving is not None:
            self._reviving.cancel()
        if self._dispatcher is not None:
            await asyncio.wait({self._dispatcher}, timeout=timeout)
            self._dispatcher.cancel()
        unfinished = tuple(self._running)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        self._fail_waiting()
        # A batch that has not come back by now is not waited for again.
        closings = (
            instance.close(0 if unfinished and instance.stuck else timeout)
            for instance in self._instances
        )
        if not all(await asyncio.gather(*closings)):
            _log.error("the runtime did not finish its last batch within %g s", timeout)
            return False
        return not unfinished

    async def _enqueue(self, pixels: Pixels, places: Places) -> Inferred:
        job = _Job(pixels, places, time.perf_counter(), asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._changed.set()
        try:
            return await job.answer
        except asyncio.CancelledError:
            with suppress(ValueError):  # its batch may have left already
                self._waiting.remove(job)
            if places.deadline is not None and asyncio.get_running_loop().time() >= places.deadline:
                self._learn(places)
            raise

    def _one_less_coming(self) -> None:
        self._coming -= 1
        self._changed.set()

    async def _dispatch(self) -> None:
        while batch := await self._next_batch():
            self._assembled = batch
            try:
                buffer, images = self._assemble(batch)  # while the batches before this one run
                instance = await self._idle_instance(batch)
            except BaseException:  # cancelled, or a fault: nobody else knows these pictures now
                _stop(batch)
                raise
            finally:
                self._assembled = []
            if instance is None:
                self._buffers.append(buffer)
                continue
            instance.busy = True
            work = self._run(instance, batch, buffer, images)
            task = asyncio.create_task(work, name="batch")
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        if self._running:
            await asyncio.wait(self._running)

    async def _next_batch(self) -> list[_Job]:
        """Wait until a batch should leave; an empty one means that all is done."""
        while True:
            self._changed.clear()
            if len(self._waiting) >= self._limits.buckets.maximum and (batch := self._take()):
                return batch
            deadline = None
            if self._waiting and self._idle() is not None:
                deadline = self._waiting[0].arrived + self._limits.max_wait
                if not self._coming or time.perf_counter() >= deadline:
                    if batch := self._take():
                        return batch
                    continue
            if self._closing and not self._waiting and not self._coming:
                return []
            remaining = None if deadline is None else deadline - time.perf_counter()
            with suppress(TimeoutError):
                async with asyncio.timeout(remaining):
                    await self._changed.wait()

    def _idle(self) -> Instance | None:
        return next((instance for instance in self._instances if instance.idle), None)

    async def _idle_instance(self, batch: list[_Job]) -> Instance | None:
        """Wait for one; None as soon as nobody waits for the batch any more."""
        while not all(job.answer.done() for job in batch):
            if (instance := self._idle()) is not None:
                return instance
            self._changed.clear()
            await self._changed.wait()
        return None

    def _take(self) -> list[_Job]:
        """Pictures for the next batch; those that it would answer too late are given up."""
        # Idle instances share what waits; where more is coming, that is for the others.
        idle = 1 if self._coming else sum(instance.idle for instance in self._instances)
        share = math.ceil(len(self._waiting) / max(1, idle))
        size = min(share, self._limits.buckets.maximum)
        needed = self._pace.seconds(size, self._limits.buckets.maximum, idle=True)
        ends = asyncio.get_running_loop().time() + needed
        batch: list[_Job] = []
        while self._waiting and len(batch) < size:
            job = self._waiting.popleft()
            if job.places.deadline is not None and ends > job.places.deadline:
                self._learn(job.places, more=needed)
                _fail(job, DeadlineError("the deadline would have passed before its batch ended"))
            else:
                batch.append(job)
        return batch

    def _learn(self, places: Places, *, more: float = 0.0) -> None:
        """Correct later predictions by what an answer took, or would take with so many seconds."""
        seconds = time.perf_counter() - places.admitted + more
        self._slack.took(seconds, predicted=places.predicted)

    def _assemble(self, batch: list[_Job]) -> tuple[Pixels, Pixels]:
        """Pictures [H, W, 3] to one array [B, H, W, 3], padded to its bucket.

        Returns:
            The buffer [largest B, H, W, 3], to be given back, and the batch, a view of it.
        """
        # A batch that does not come back keeps its buffer; then there are too few.
        buffer = self._buffers.pop() if self._buffers else np.zeros(self._shape, dtype=np.uint8)
        images = buffer[: self._limits.buckets.padded(len(batch))]
        # B x [H, W, 3] -> [B, H, W, 3]
        np.stack([job.pixels for job in batch], out=images[: len(batch)])
        images[len(batch) :] = 0
        return buffer, images

    async def _run(
        self, instance: Instance, batch: list[_Job], buffer: Pixels, images: Pixels
    ) -> None:
        started = time.perf_counter()
        try:
            logits = await instance.infer(images)
            seconds = time.perf_counter() - started
            self._answer(batch, logits, started, seconds)
            instance.succeeded()
            self._backoff.reset()
            self._pace.observed(len(images), seconds)
            self._on_batch(len(batch), seconds)
        except Exception:  # noqa: BLE001 - whatever a runtime raises costs one batch
            instance.failed()
            _log.exception("the runtime failed on a batch of %d", len(batch))
            for job in batch:
                _fail(job, InferenceError("the model failed while this picture was classified"))
        finally:
            _stop(batch)  # finds unanswered pictures only where this task was cancelled
            if not instance.stuck:
                self._buffers.append(buffer)
            instance.busy = False
            self._changed.set()

    def _answer(self, batch: list[_Job], logits: Logits, started: float, seconds: float) -> None:
        if len(logits) < len(batch):
            raise InferenceError(f"the runtime gave {len(logits)} answers to {len(batch)} pictures")
        for job, row in zip(batch, logits, strict=False):  # rows of padding have no job
            self._learn(job.places)
            if not job.answer.done():
                job.answer.set_result(Inferred(row, started - job.arrived, seconds, len(batch)))

    def _dispatch_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.critical("the batching task ended unexpectedly", exc_info=error)
            self._fail_waiting()
            if not self._closing:
                self._reviving = asyncio.create_task(self._revive(), name="revive")

    async def _revive(self) -> None:
        await asyncio.sleep(self._backoff.delay())
        self.start()
        self._on_restart(True)

    def _restarted(self, success: bool) -> None:  # noqa: FBT001 - a callback's only argument
        self._on_restart(success)
        if not success and not self.working:  # their clients had better ask elsewhere
            self._fail_waiting()
        self._changed.set()

    def _fail_waiting(self) -> None:
        _stop(self._waiting)
        self._waiting.clear()
        _stop(self._assembled)


def _stop(jobs: Iterable[_Job]) -> None:
    for job in jobs:
        _fail(job, NotReadyError("the service stopped before this picture was classified"))


def _fail(job: _Job, error: Exception) -> None:
    if not job.answer.done():
        job.answer.set_exception(error)
