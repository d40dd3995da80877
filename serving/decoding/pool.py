"""Pictures to pixels, beside the event loop: in threads, or in processes that may die of them."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lavit_deploy.preprocess import Pixels, Preprocess, prepare
from lavit_deploy.serving.decoding.picture_formats import Formats
from lavit_deploy.serving.decoding.process import DecoderLimits, DecoderProcess, Work
from lavit_deploy.serving.errors import DecodingTimeoutError
from lavit_deploy.serving.settings.settings import Isolation


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture as the model takes it.

    Attributes:
        pixels: uint8 [H, W, C].
        wait_seconds: time until a decoder was free.
        decode_seconds: decoding, resizing and cropping.
    """

    pixels: Pixels
    wait_seconds: float
    decode_seconds: float


class Decoders:
    """A pool of decoders that all models of a service share.

    With "threads", Pillow decodes in this process; it releases the interpreter's lock meanwhile, so
    that threads do scale. A picture over the time limit is answered at once, but its thread is busy
    until the decoder returns; a crash of the decoder ends the service. With "processes" each
    thread has a child, which is killed at the limit, confined in memory, and replaced when it dies.

    The pool's own queue has no bound; what enters it is bounded by the places a request must hold.

    Args:
        workers: pictures decoded at the same time; this also bounds the memory they need.
        max_pixels: limit on width * height, read from a picture's header.
        seconds: longest time to decode one picture.
        isolation: where decoding happens.
        job: makes what a child runs for each picture; for tests.
    """

    def __init__(
        self,
        *,
        workers: int,
        max_pixels: int,
        seconds: float,
        isolation: Isolation,
        job: Callable[[DecoderLimits], Work] | None = None,
    ) -> None:
        self.formats = Formats.available()
        self._limits = DecoderLimits(max_pixels, seconds)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decoder")
        count = workers if isolation == "processes" else 0
        self._children = tuple(DecoderProcess(self._limits, job) for _ in range(count))
        self._idle: queue.SimpleQueue[DecoderProcess] = queue.SimpleQueue()
        for child in self._children:
            self._idle.put(child)

    async def decode(self, data: bytes, preprocess: Preprocess) -> Decoded:
        """Decode one picture.

        Raises:
            ImageError: the bytes are no picture that can be used; says why.
            DecodingTimeoutError: it took longer than the limit.
            DecoderCrashError: its process died of it.
        """
        job = _Job(data, preprocess, time.perf_counter())
        running = asyncio.get_running_loop().run_in_executor(self._pool, self._run, job)
        if self._children:  # whose threads keep the limit themselves
            return await running
        return await self._in_time(running, job)

    async def _in_time(self, running: asyncio.Future[Decoded], job: _Job) -> Decoded:
        """Await a picture, and give it up at the limit; time in the queue does not count."""
        loop, limit = asyncio.get_running_loop(), self._limits.seconds
        late = False
        alarm: asyncio.TimerHandle

        def look() -> None:
            nonlocal late, alarm
            begun = job.started
            left = limit if begun is None else begun + limit - time.perf_counter()
            if left > 0:
                alarm = loop.call_later(left, look)
            else:
                late = True
                running.cancel()

        alarm = loop.call_later(limit, look)
        try:
            return await running
        except asyncio.CancelledError:
            if not late:
                raise
            raise DecodingTimeoutError(
                f"the picture takes longer than {limit:g} s to decode"
            ) from None
        finally:
            alarm.cancel()
            running.cancel()

    def _run(self, job: _Job) -> Decoded:
        """In a thread of the pool: one picture."""
        started = job.started = time.perf_counter()
        if not self._children:
            pixels = prepare(
                job.data,
                job.preprocess,
                max_pixels=self._limits.max_pixels,
                formats=self.formats.names,
            )
        else:
            child = self._idle.get()
            try:
                pixels = child.decode(job.data, job.preprocess)
            finally:
                self._idle.put(child)
        return Decoded(pixels, started - job.asked, time.perf_counter() - started)

    def close(self) -> None:
        """End the threads and processes; pictures not begun are dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for child in self._children:
            child.close()


@dataclass(slots=True)
class _Job:
    data: bytes
    preprocess: Preprocess
    asked: float
    started: float | None = None
