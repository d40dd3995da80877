"""Requests sent on a schedule that does not wait for the server.

A generator that sends the next request when the last one is answered slows down with the server,
and leaves out of its percentiles exactly the requests that would have waited: coordinated omission.
Here every request has a time fixed in advance, and its latency counts from that time, whether or
not it could be sent then.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import os
import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from serving_load.connections import Pool

UNANSWERED = -1
"""Status of a request that had no answer when the generator gave up on it."""

Schedule = Literal["poisson", "constant"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One request.

    Attributes:
        due: when it should have been sent, seconds from the start.
        late: seconds until it was handed to a connection; the generator's own delay.
        latency: seconds from `due` until the whole answer was there.
        status: HTTP status, `LOST` or `UNANSWERED`.
    """

    due: float
    late: float
    latency: float
    status: int


@dataclass
class Load:
    """What was sent in one run.

    Attributes:
        seconds: length of the measured part.
        samples: its requests.
        generator_cpu_seconds: processor time of this process, the warm part included.
    """

    seconds: float
    samples: list[Sample] = field(default_factory=list)
    generator_cpu_seconds: float = 0.0


def due_times(rate: float, seconds: float, kind: Schedule, seed: int) -> Iterator[float]:
    """Times to send at, seconds from the start, `rate` of them a second on average."""
    if kind == "constant":
        yield from (index / rate for index in range(round(rate * seconds)))
        return
    chance = random.Random(seed)
    due = chance.expovariate(rate)
    while due < seconds:
        yield due
        due += chance.expovariate(rate)


class Alarm:
    """Wakes a coroutine to the microsecond; event loops' own timers are rounded up to 1 ms.

    Linux only: `timerfd`, which Python itself has from 3.13.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._file = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK)
        if self._file < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._rung = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._file, self._ring)

    def _ring(self) -> None:
        os.read(self._file, 8)
        self._rung.set()

    async def until(self, moment: float) -> None:
        """Return at `moment` on `time.monotonic`'s clock, at once if it has passed."""
        if (left := moment - time.monotonic()) <= 0:
            return
        seconds, nanoseconds = divmod(int(left * 1e9) + 1, 10**9)
        # struct itimerspec: interval (none), then the time until it goes off.
        spec = (ctypes.c_long * 4)(0, 0, seconds, nanoseconds)
        self._rung.clear()
        self._libc.timerfd_settime(self._file, 0, spec, None)
        await self._rung.wait()

    def close(self) -> None:
        """Give the timer back."""
        asyncio.get_running_loop().remove_reader(self._file)
        os.close(self._file)


async def open_loop(
    pool: Pool,
    requests: Sequence[bytes],
    *,
    rate: float,
    seconds: float,
    warm: float = 1.0,
    kind: Schedule = "poisson",
    seed: int = 0,
    patience: float = 10.0,
) -> Load:
    """Send requests on a schedule.

    Args:
        pool: connections to the server.
        requests: sent in turn.
        rate: requests a second.
        seconds: how long to measure.
        warm: seconds of the same load before that, not counted.
        kind: independent clients, or a metronome.
        seed: of the schedule.
        patience: seconds to wait for answers after the last request was due; what has none then
            counts with the time it has waited.
    """
    samples: list[Sample] = []
    pending: set[asyncio.Task[None]] = set()
    alarm, processor = Alarm(), time.process_time()
    start = time.monotonic() + 0.01

    async def one(due: float, request: bytes) -> None:
        late = time.monotonic() - start - due
        status = UNANSWERED
        try:
            status = (await pool.request(request)).status
        finally:
            samples.append(Sample(due - warm, late, time.monotonic() - start - due, status))

    for due, request in zip(
        due_times(rate, warm + seconds, kind, seed), itertools.cycle(requests), strict=False
    ):
        await alarm.until(start + due)
        task = asyncio.create_task(one(due, request))
        pending.add(task)
        task.add_done_callback(pending.discard)
    alarm.close()
    if pending:
        _, left = await asyncio.wait(pending, timeout=patience)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
    counted = [sample for sample in samples if sample.due >= 0]
    return Load(seconds, counted, time.process_time() - processor)


async def closed_loop(
    pool: Pool, requests: Sequence[bytes], *, clients: int, seconds: float, warm: float = 1.0
) -> Load:
    """Keep so many requests under way, each client sending when its last one is answered.

    This finds the rate at which a server saturates, whatever its queues. Latencies of such a load
    say how many clients there were, not how long one would wait.
    """
    samples: deque[Sample] = deque()
    processor, start = time.process_time(), time.monotonic() + warm
    turn = itertools.cycle(requests)

    async def client() -> None:
        while (sent := time.monotonic() - start) < seconds:
            reply = await pool.request(next(turn))
            done = time.monotonic() - start
            if 0 <= done < seconds:
                samples.append(Sample(sent, 0.0, done - sent, reply.status))
            if reply.status != 200:  # a refusal costs the server nothing; do not race it
                await asyncio.sleep(0.01)

    await asyncio.gather(*(client() for _ in range(clients)))
    return Load(seconds, list(samples), time.process_time() - processor)
