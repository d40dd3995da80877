"""`lavit-serve --workers N`: several whole services behind one port, and a supervisor over them.

Each worker has its own event loop, queue, batches and runtime, so that Python's interpreter lock
holds none of the others up. It listens on a socket of its own (SO_REUSEPORT: the kernel spreads
connections) from when its models are warm, so one that starts or has died gets no connections.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.context import SpawnProcess
from pathlib import Path

from lavit_deploy.common import command_line
from lavit_deploy.common.errors import LavitError, UsageError
from lavit_deploy.serving.batching.backoff import Backoff
from lavit_deploy.serving.process.signals import held_signals
from lavit_deploy.serving.process.sockets import reserved_socket
from lavit_deploy.serving.process.worker_states import (
    State,
    WorkerPlace,
    WorkerStates,
    shared_folder,
)
from lavit_deploy.serving.settings.settings import ServiceSettings
from lavit_deploy.serving.telemetry import logs

_log = logging.getLogger("serving.workers")
_LOOK = 0.05
"""Seconds between looks at its state while a worker starts."""
_PROVEN = 60.0
"""Seconds after which a worker that ends is replaced without waiting longer than the first time."""
_SPARE = 5.0
"""Seconds beyond its own limits after which a worker that does not stop is killed."""


def supervise(settings: ServiceSettings, *, reread: Callable[[], ServiceSettings]) -> int:
    """Serve bundles with several workers until SIGTERM or SIGINT.

    The first worker starts alone: what is wrong with the settings or a bundle is said once, by it.

    Args:
        settings: of the whole service; `ServiceSettings.of_worker` divides them.
        reread: makes the settings again, for SIGHUP; must be picklable.

    Returns:
        Exit code: 0 after a clean stop; that of a worker that ended before all were ready once;
        1 where the last requests had to be abandoned.

    Raises:
        LavitError: the address or an option cannot be used.
    """
    if sys.platform != "linux":
        raise UsageError(
            f"--workers {settings.workers} needs Linux, which spreads connections over sockets of "
            f"one port; this is {sys.platform}"
        )
    with (
        reserved_socket(settings.host, settings.port) as reserved,
        shared_folder() as folder,
    ):
        settings = replace(settings, port=reserved.getsockname()[1])
        return asyncio.run(_Supervisor(settings, reread, folder).run())


def work(
    settings: ServiceSettings, place: WorkerPlace, reread: Callable[[], ServiceSettings]
) -> None:
    """A worker's whole life; ends the process with its exit code."""
    from lavit_deploy.serving.process.metrics_files import count_in_files

    logs.configure(settings.log_format, worker=place.number)
    count_in_files(place)

    def serve(_: object) -> int:
        from lavit_deploy.serving.process import server

        return server.serve(settings, reread=reread, place=place)

    sys.exit(command_line.run(serve))


@dataclass
class _Worker:
    """One of the places, and the process that fills it now."""

    number: int
    process: SpawnProcess | None = None
    started: float = 0.0
    backoff: Backoff = field(default_factory=Backoff)

    def send(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)


class _Supervisor:
    def __init__(
        self, settings: ServiceSettings, reread: Callable[[], ServiceSettings], metrics: Path
    ) -> None:
        self._settings = settings
        self._reread = reread
        self._metrics = metrics
        self._context = multiprocessing.get_context("spawn")
        self._states = WorkerStates.make(self._context, settings.workers)
        self._states.pids[-1] = os.getpid()
        self._workers = [_Worker(number) for number in range(1, settings.workers + 1)]
        self._stopping = asyncio.Event()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        loop.add_signal_handler(signal.SIGINT, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        first, *others = self._workers
        for some in ([first], others):
            for worker in some:
                self._start(worker)
            if not all([await self._until_ready(worker) for worker in some]):
                return await self._end()
        told = f"{len(self._workers)} workers have answered their warm-up; Ctrl-C stops"
        logs.announce(_log, self._settings.log_format, {"ready": told})
        keepers = [asyncio.create_task(self._keep(worker)) for worker in self._workers]
        await self._stopping.wait()
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        return await self._end()

    def _start(self, worker: _Worker, *, again: bool = False) -> None:
        first = worker.number == 1 and not again
        settings = self._settings.of_worker()
        if not first:  # the bundle has the first one's times by now
            settings = replace(settings, measure=False)
        place = WorkerPlace(self._states, worker.number, self._metrics, first)
        worker.process = self._context.Process(
            target=work, args=(settings, place, self._reread), name=f"worker-{worker.number}"
        )
        with held_signals():
            worker.process.start()
        worker.started = time.monotonic()
        self._states.pids[worker.number - 1] = worker.process.pid

    async def _until_ready(self, worker: _Worker) -> bool:
        """Whether it became ready; not if it ended before, or all are to stop."""
        while not self._stopping.is_set():
            if self._states.state(worker.number) == State.READY:
                return True
            if worker.process is None or worker.process.exitcode is not None:
                return False
            await asyncio.sleep(_LOOK)
        return False

    async def _keep(self, worker: _Worker) -> None:
        """Replace the worker whenever it ends."""
        while worker.process is not None:
            await _ended(worker.process)
            self._states.set_state(worker.number, State.GONE)
            self._states.pids[worker.number - 1] = 0
            self._forget_gauges(worker.number)
            if time.monotonic() - worker.started > _PROVEN:
                worker.backoff.reset()
            delay = worker.backoff.delay()
            _log.error(
                "worker %d ended by itself (%s); another one starts in %g s",
                worker.number,
                _how(worker.process),
                delay,
            )
            await asyncio.sleep(delay)
            self._states.restarts[worker.number - 1] += 1
            self._start(worker, again=True)

    def _forget_gauges(self, number: int) -> None:
        from lavit_deploy.serving.process.metrics_files import forget_gauges

        forget_gauges(number, self._metrics)

    def _stop(self) -> None:
        """After SIGTERM or SIGINT."""
        for worker in self._workers:
            worker.send(signal.SIGTERM)
        self._stopping.set()

    def _reload(self) -> None:
        """Pass SIGHUP on; workers that start later must serve the same bundles."""
        try:
            again = self._reread()
        except LavitError as error:
            _log.error("not reloaded: %s", error)
            return
        self._settings = replace(self._settings, bundles=again.bundles, models=again.models)
        for worker in self._workers:
            worker.send(signal.SIGHUP)

    async def _end(self) -> int:
        """Stop every worker that is there, and wait for it."""
        asked = self._stopping.is_set()
        failed = [
            worker.process.exitcode
            for worker in self._workers
            if worker.process is not None and worker.process.exitcode not in {None, 0}
        ]
        self._stop()
        codes = [await self._ending(worker) for worker in self._workers if worker.process]
        if not asked:  # one ended before all were ready
            return _shell_code(failed[0]) if failed else 1
        return 0 if all(code in {0, -signal.SIGTERM} for code in codes) else 1

    async def _ending(self, worker: _Worker) -> int | None:
        """Its exit code; it is killed where it takes longer than it may."""
        if worker.process is None:
            return None
        limit = 2 * self._settings.drain_seconds + _SPARE
        try:
            async with asyncio.timeout(limit):
                await _ended(worker.process)
        except TimeoutError:
            _log.error("worker %d did not stop within %g s and is killed", worker.number, limit)
            worker.process.kill()
            await _ended(worker.process)
        return worker.process.exitcode


async def _ended(process: SpawnProcess) -> None:
    """Wait until a process has ended."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(process.sentinel, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(process.sentinel)
    process.join()


def _how(process: SpawnProcess) -> str:
    code = process.exitcode
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"


def _shell_code(code: int | None) -> int:
    """An exit code as a shell says it: 128 and the signal's number."""
    return 1 if code is None else 128 - code if code < 0 else code
