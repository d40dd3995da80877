"""When a batch leaves the queue, and which pictures it holds.

A batch leaves when

- it is full, whether or not an instance is idle: it is assembled while those before it run;
- an instance is idle and no accepted picture is still being decoded, so waiting would be in vain;
- an instance is idle and the oldest picture has waited `max_wait` seconds for those still decoding.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from lavit_deploy.serving.batching.picture_queue import Job, PictureQueue
from lavit_deploy.serving.batching.waits import WaitPredictor
from lavit_deploy.serving.errors import DeadlineError


class BatchFormer:
    """Makes batches of the pictures in a queue.

    Args:
        queue: where they wait.
        waits: how long a batch takes, and who learns from what would come too late.
        max_batch: most pictures in a batch.
        max_wait: longest time an idle instance waits for pictures that are being decoded, seconds.
        idle: how many instances would begin a batch at once.
    """

    def __init__(
        self,
        queue: PictureQueue,
        waits: WaitPredictor,
        *,
        max_batch: int,
        max_wait: float,
        idle: Callable[[], int],
    ) -> None:
        self._queue = queue
        self._waits = waits
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._idle = idle

    async def next_batch(self) -> list[Job]:
        """Wait until a batch should leave; an empty one means that all is done."""
        queue = self._queue
        while True:
            if len(queue) >= self._max_batch and (batch := self._take()):
                return batch
            remaining: float | None = None
            if len(queue) and self._idle():
                remaining = queue.oldest_arrival + self._max_wait - time.perf_counter()
                if not queue.still_decoding or remaining <= 0:
                    if batch := self._take():
                        return batch
                    continue
            if queue.ended:
                return []
            await queue.change(remaining)

    def _take(self) -> list[Job]:
        """Pictures for the next batch; those that it would answer too late are given up."""
        queue = self._queue
        # Idle instances share what waits; where more is coming, that is for the others.
        idle = 1 if queue.still_decoding else self._idle()
        size = min(math.ceil(len(queue) / max(1, idle)), self._max_batch)
        needed = self._waits.of_one_batch(size)
        ends = asyncio.get_running_loop().time() + needed
        batch: list[Job] = []
        while len(queue) and len(batch) < size:
            job = queue.pop()
            deadline = job.reservation.deadline
            if deadline is not None and ends > deadline:
                job.reservation.learn(self._waits, more=needed)
                job.fail(DeadlineError("the deadline would have passed before its batch ended"))
            else:
                batch.append(job)
        return batch
