"""What the workers of one service know of each other, in memory that they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from multiprocessing.context import SpawnContext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lavit_deploy.common.errors import UsageError

_MEMORY = "/dev/shm"  # noqa: S108 - Linux's shared memory; there is a folder of our own in it


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A folder for the files that workers share, removed at the end.

    A container with a read-only root often has no folder for temporary files: then it is in
    shared memory.

    Raises:
        UsageError: no such folder can be written.
    """
    with _temporary_folder() as name:
        yield Path(name)


def _temporary_folder() -> TemporaryDirectory[str]:
    for parent in (None, _MEMORY):
        try:
            return TemporaryDirectory(prefix="lavit-serve-", dir=parent)
        except OSError:
            continue
    raise UsageError(
        f"--workers needs a folder for the files that they share: neither {_MEMORY} nor a folder "
        "for temporary files can be written; mount one at /tmp, or name one in TMPDIR"
    )


class State(IntEnum):
    """Of one worker."""

    STARTING = 0  # it has never been ready
    READY = 1
    BROKEN = 2  # it listens, and would refuse
    GONE = 3  # it was ready, and is being replaced: it gets no connections


@dataclass(frozen=True)
class WorkerStates:
    """One place for each worker in shared memory; each place has one writer at a time.

    Attributes:
        states: `State` of each; the supervisor writes it while the worker is not there.
        pids: process of each, and last the supervisor's; 0: none yet.
        restarts: times that each was replaced.
    """

    states: Any  # multiprocessing's arrays have no type of their own
    pids: Any
    restarts: Any

    @classmethod
    def make(cls, context: SpawnContext, workers: int) -> WorkerStates:
        """Places that are empty, for processes that the context starts.

        Raises:
            UsageError: there is no shared memory.
        """
        try:
            return cls(
                context.RawArray("b", workers),
                context.RawArray("i", workers + 1),
                context.RawArray("I", workers),
            )
        except OSError as error:
            raise UsageError(f"--workers needs shared memory in {_MEMORY}: {error}") from None

    def state(self, number: int) -> State:
        """Of worker `number`, counted from 1."""
        return State(self.states[number - 1])

    def set_state(self, number: int, state: State) -> None:
        """Write the place of worker `number`, counted from 1."""
        self.states[number - 1] = state

    @property
    def workers(self) -> int:
        """How many there should be."""
        return len(self.states)

    @property
    def ready(self) -> int:
        """How many take requests."""
        return sum(state == State.READY for state in self.states)

    def processes(self) -> Sequence[int]:
        """All that are there, the supervisor included."""
        return [pid for pid in self.pids if pid]


@dataclass(frozen=True)
class WorkerPlace:
    """One worker's place among the others.

    Attributes:
        shared: of all.
        number: its own, counted from 1.
        metrics: folder of the files that all workers count in.
        first: it tells the operator what is served; the others need not say it again.
    """

    shared: WorkerStates
    number: int
    metrics: Path
    first: bool

    def reason_elsewhere(self) -> str | None:
        """Why the service is not ready though this worker may be; None: no other is in the way.

        At the start every worker must be ready once. Later, one that is gone gets no connections
        and does not count, one that listens and would refuse does.
        """
        for number in range(1, self.shared.workers + 1):
            state = self.shared.state(number)
            if number == self.number or state in {State.READY, State.GONE}:
                continue
            doing = "is warming up" if state == State.STARTING else "is not ready; its log says why"
            return f"worker {number} of {self.shared.workers} {doing}"
        return None
