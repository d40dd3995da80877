"""The instances of one artifact, and the batches that run on them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lavit_deploy.common.errors import InferenceError
from lavit_deploy.preprocess import Pixels
from lavit_deploy.runtimes.base import Logits, Runtime
from lavit_deploy.serving.batching.backoff import Backoff
from lavit_deploy.serving.batching.padding import PaddedSizes
from lavit_deploy.serving.batching.picture_queue import Inferred, Job, refuse
from lavit_deploy.serving.batching.runtime_instance import RuntimeInstance
from lavit_deploy.serving.batching.waits import WaitPredictor

_log = logging.getLogger("serving.batching")


@dataclass(frozen=True, slots=True)
class AssembledBatch:
    """Pictures in one array.

    Attributes:
        jobs: whose pictures, B of them.
        images: uint8 [padded B, H, W, C], black behind the pictures; a view of the buffer.
        buffer: uint8 [largest B, H, W, C], given back when the batch has run.
    """

    jobs: list[Job]
    images: Pixels
    buffer: Pixels


class RuntimePool:
    """Runs each batch on whichever instance is idle.

    Args:
        runtimes: the artifact, opened once or several times; closed here.
        sizes: the sizes of batches, which are padded to them with black.
        infer_seconds: longest time of a batch; then its instance counts as broken.
        waits: learns how long batches and answers take.
        reopen: opens the artifact once more; blocks.
        backoff: makes the delays between attempts to open a broken one again.
        on_batch: told each batch's pictures and seconds in the runtime.
        on_restart: told of every attempt to open a broken runtime again, and whether it succeeded.
        on_change: told when an instance is idle, or broken, or works again.
    """

    def __init__(
        self,
        runtimes: Sequence[Runtime],
        *,
        sizes: PaddedSizes,
        infer_seconds: float,
        waits: WaitPredictor,
        reopen: Callable[[], Runtime],
        backoff: Callable[[], Backoff],
        on_batch: Callable[[int, float], None],
        on_restart: Callable[[bool], None],
        on_change: Callable[[], None],
    ) -> None:
        self._sizes = sizes
        self._waits = waits
        self._on_batch = on_batch
        self._on_change = on_change
        to_warm_up = sizes.to_warm_up()
        picture = [size or 1 for size in runtimes[0].input.shape[1:]]  # [H, W, C]
        self._shape = (to_warm_up[-1], *picture)
        black = np.zeros(self._shape, dtype=np.uint8)  # [B, H, W, C]
        self._black = [black[:size] for size in to_warm_up]
        self._instances = tuple(
            RuntimeInstance(
                f"runtime-{number}",
                runtime,
                reopen=reopen,
                black=self._black,
                seconds=infer_seconds,
                backoff=backoff(),
                on_restart=on_restart,
            )
            for number, runtime in enumerate(runtimes)
        )
        # One more than run, because the next batch is assembled meanwhile.
        self._buffers = [np.zeros(self._shape, dtype=np.uint8) for _ in range(len(runtimes) + 1)]
        self._running: set[asyncio.Task[None]] = set()

    @property
    def working(self) -> int:
        """Instances that take batches."""
        return sum(instance.fault is None for instance in self._instances)

    @property
    def idle(self) -> int:
        """Instances that would begin a batch at once."""
        return sum(instance.idle for instance in self._instances)

    @property
    def fault(self) -> str | None:
        """Why no instance takes batches; None while one does."""
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
                    self._waits.batches.measured(len(images), time.perf_counter() - started)

    def assemble(self, jobs: list[Job]) -> AssembledBatch:
        """Pictures [H, W, C] to one array, padded to the size that they run at."""
        # A batch that does not come back keeps its buffer; then there are too few.
        buffer = self._buffers.pop() if self._buffers else np.zeros(self._shape, dtype=np.uint8)
        images = buffer[: self._sizes.padded(len(jobs))]
        # B x [H, W, C] -> [B, H, W, C]
        np.stack([job.pixels for job in jobs], out=images[: len(jobs)])
        images[len(jobs) :] = 0
        return AssembledBatch(jobs, images, buffer)

    def drop(self, batch: AssembledBatch) -> None:
        """Take back a batch that nobody waits for any more."""
        self._buffers.append(batch.buffer)

    def start(self, batch: AssembledBatch) -> bool:
        """Begin a batch on an idle instance; False where there is none now."""
        instance = next((instance for instance in self._instances if instance.idle), None)
        if instance is None:
            return False
        instance.busy = True
        task = asyncio.create_task(self._run(instance, batch), name="batch")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return True

    async def _run(self, instance: RuntimeInstance, batch: AssembledBatch) -> None:
        jobs = batch.jobs
        started = time.perf_counter()
        try:
            logits = await instance.infer(batch.images)
            seconds = time.perf_counter() - started
            self._answer(jobs, logits, started, seconds)
            instance.succeeded()
            self._waits.batches.observed(len(batch.images), seconds)
            self._on_batch(len(jobs), seconds)
        except Exception:  # noqa: BLE001 - whatever a runtime raises costs one batch
            instance.failed()
            _log.exception("the runtime failed on a batch of %d", len(jobs))
            for job in jobs:
                job.fail(InferenceError("the model failed while this picture was classified"))
        finally:
            refuse(jobs)  # finds unanswered pictures only where this task was cancelled
            if not instance.stuck:
                self._buffers.append(batch.buffer)
            instance.busy = False
            self._on_change()

    def _answer(self, jobs: list[Job], logits: Logits, started: float, seconds: float) -> None:
        if len(logits) < len(jobs):
            raise InferenceError(f"the runtime gave {len(logits)} answers to {len(jobs)} pictures")
        for job, row in zip(jobs, logits, strict=False):  # rows of padding have no job
            job.reservation.learn(self._waits)
            if not job.answer.done():
                job.answer.set_result(Inferred(row, started - job.arrived, seconds, len(jobs)))

    async def finish(self) -> None:
        """Wait for the batches that run."""
        if self._running:
            await asyncio.wait(self._running)

    async def close(self, timeout: float) -> bool:  # noqa: ASYNC109 - passed on
        """Give up the batches that still run, stop the threads and free the runtimes.

        Args:
            timeout: seconds to wait for a thread.

        Returns:
            Whether nothing had to be given up.
        """
        unfinished = tuple(self._running)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        # A batch that has not come back by now is not waited for again.
        closings = (
            instance.close(0 if unfinished and instance.stuck else timeout)
            for instance in self._instances
        )
        if not all(await asyncio.gather(*closings)):
            _log.error("the runtime did not finish its last batch within %g s", timeout)
            return False
        return not unfinished
