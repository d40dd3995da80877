"""Pictures that were accepted: places for them before they are decoded, and a line after it.

Everything here runs on the event loop, so nothing is locked.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from lavit_deploy.preprocess import Pixels
from lavit_deploy.runtimes.base import Logits
from lavit_deploy.serving.batching.waits import WaitPredictor
from lavit_deploy.serving.errors import NotReadyError, OverloadedError, PredictedWaitError


@dataclass(frozen=True, slots=True)
class Inferred:
    """A picture's logits and how they came about.

    Attributes:
        logits: float32 [K].
        queue_seconds: from the picture's arrival until its batch started.
        infer_seconds: time of the whole batch in the runtime.
        batch: pictures in that batch.
    """

    logits: Logits
    queue_seconds: float
    infer_seconds: float
    batch: int


@dataclass(eq=False, slots=True)
class Job:
    """A decoded picture that waits for its logits.

    Attributes:
        pixels: uint8 [H, W, C].
        reservation: of its request.
        arrived: on `time.perf_counter`, seconds.
        answer: its logits, or why there are none.
    """

    pixels: Pixels
    reservation: Reservation
    arrived: float
    answer: asyncio.Future[Inferred]

    def fail(self, error: Exception) -> None:
        """Answer with an error, unless it is answered."""
        if not self.answer.done():
            self.answer.set_exception(error)


def refuse(jobs: Iterable[Job]) -> None:
    """Answer pictures that will not be classified any more."""
    for job in jobs:
        job.fail(NotReadyError("the service stopped before this picture was classified"))


class Reservation:
    """Places that one request holds in the queue, taken before its pictures are decoded.

    Args:
        queue: where the places are.
        count: how many.
        predicted: seconds of the batches until its answer.
        deadline: when it must be answered, on the event loop's clock; None: whenever.

    Attributes:
        still_decoding: pictures that have not arrived in the queue yet.
    """

    def __init__(
        self, queue: PictureQueue, count: int, predicted: float, deadline: float | None
    ) -> None:
        self._queue = queue
        self._admitted = time.perf_counter()
        self._predicted = predicted
        self.deadline = deadline
        self.still_decoding = count

    async def infer(self, pixels: Pixels) -> Inferred:
        """Put one decoded picture, uint8 [H, W, C], into the queue and wait for its logits.

        Raises:
            DeadlineError: a batch begun now would end after the deadline.
            InferenceError: the runtime failed on the picture's batch.
            NotReadyError: the service stopped before the batch ran.
        """
        self._one_decoded()
        return await self._queue.put(pixels, self)

    def cancel_one(self) -> None:
        """Say that one of the pictures will not come, so that no batch waits for it."""
        self._one_decoded()

    def _one_decoded(self) -> None:
        if self.still_decoding <= 0:
            raise RuntimeError("more pictures than places were reserved for")
        self.still_decoding -= 1
        self._queue.one_decoded()

    def learn(self, waits: WaitPredictor, *, more: float = 0.0) -> None:
        """Correct later predictions by what this answer took, or would with so many seconds."""
        seconds = time.perf_counter() - self._admitted + more
        waits.answered(seconds, predicted=self._predicted)


class PictureQueue:
    """Takes as many pictures as there are places, where they can be answered in time.

    Args:
        capacity: most pictures accepted and not yet answered.
        waits: predicts when they will be answered.
        instances: how many instances of the runtime take batches now.

    Attributes:
        accepted: pictures accepted and not yet answered.
        still_decoding: those of them that have not arrived yet.
        closed: nothing more will come.
    """

    def __init__(
        self, capacity: int, waits: WaitPredictor, *, instances: Callable[[], int]
    ) -> None:
        self._capacity = capacity
        self._waits = waits
        self._instances = instances
        self._waiting: deque[Job] = deque()
        self._changed = asyncio.Event()
        self.accepted = 0
        self.still_decoding = 0
        self.closed = False

    def __len__(self) -> int:
        """Decoded pictures that wait for the runtime."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether there is no place for one more picture."""
        return self.accepted >= self._capacity

    @property
    def ended(self) -> bool:
        """Whether nothing waits and nothing more will come."""
        return self.closed and not self._waiting and not self.still_decoding

    @property
    def oldest_arrival(self) -> float:
        """When the first one in the line arrived, on `time.perf_counter`; there must be one."""
        return self._waiting[0].arrived

    def predicted_wait(self, count: int = 1) -> float:
        """Seconds until `count` more pictures would be answered; 0 before the warm-up."""
        return self._waits.until_answer(self._batches_ahead(count), accepted=self.accepted)

    def _batches_ahead(self, count: int) -> float:
        return self._waits.batches_ahead(count, accepted=self.accepted, instances=self._instances())

    @contextmanager
    def reserve(self, count: int, deadline: float | None = None) -> Iterator[Reservation]:
        """Hold places for `count` pictures, from before they are decoded until they are answered.

        Raises:
            OverloadedError: there are not that many.
            PredictedWaitError: by past batches, they would not be answered before the deadline.
        """
        if self.accepted + count > self._capacity:
            raise OverloadedError(
                f"{self.accepted} pictures are waiting and the limit is {self._capacity}: "
                f"no room for {count} more now"
            )
        ahead = self._batches_ahead(count)
        wait = self._waits.until_answer(ahead, accepted=self.accepted)
        if deadline is not None and asyncio.get_running_loop().time() + wait > deadline:
            raise PredictedWaitError(
                f"{self.accepted} pictures are waiting: an answer would take {wait * 1e3:.0f} ms, "
                "longer than the deadline leaves"
            )
        self.accepted += count
        self.still_decoding += count
        reservation = Reservation(self, count, ahead, deadline)
        try:
            yield reservation
        finally:
            self.accepted -= count
            self.still_decoding -= reservation.still_decoding
            self.notify()

    def one_decoded(self) -> None:
        """One picture has arrived, or will never come."""
        self.still_decoding -= 1
        self.notify()

    async def put(self, pixels: Pixels, reservation: Reservation) -> Inferred:
        """Stand in line with a decoded picture, uint8 [H, W, C], until it is answered.

        Raises:
            LavitError: it was answered with an error.
        """
        loop = asyncio.get_running_loop()
        job = Job(pixels, reservation, time.perf_counter(), loop.create_future())
        self._waiting.append(job)
        self.notify()
        try:
            return await job.answer
        except asyncio.CancelledError:
            with suppress(ValueError):  # its batch may have left already
                self._waiting.remove(job)
            if reservation.deadline is not None and loop.time() >= reservation.deadline:
                reservation.learn(self._waits)
            raise

    def pop(self) -> Job:
        """Take the first one out of the line."""
        return self._waiting.popleft()

    def refuse_all(self) -> None:
        """Answer all that wait with `NotReadyError`."""
        refuse(self._waiting)
        self._waiting.clear()

    def notify(self) -> None:
        """Wake whoever waits for a change: here, or of the runtime's instances."""
        self._changed.set()

    async def change(self, seconds: float | None = None) -> None:
        """Wait for the next change, or for so many seconds."""
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
