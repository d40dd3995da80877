import multiprocessing
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from lavit_deploy.common.errors import UsageError
from lavit_deploy.serving.process import worker_states
from lavit_deploy.serving.process.worker_states import (
    State,
    WorkerPlace,
    WorkerStates,
    shared_folder,
)

WARMING, BROKEN = "worker 2 of 3 is warming up", "worker 2 of 3 is not ready; its log says why"


@pytest.mark.parametrize(
    ("second", "third", "reason"),
    [
        (State.READY, State.READY, None),
        (State.STARTING, State.READY, WARMING),
        (State.BROKEN, State.GONE, BROKEN),
        (State.GONE, State.READY, None),  # nobody is sent there
        (State.STARTING, State.STARTING, WARMING),
    ],
)
def test_a_service_is_ready_once_all_were_and_while_none_that_listens_is_broken(
    second, third, reason
):
    states = WorkerStates.make(multiprocessing.get_context("spawn"), 3)
    states.set_state(2, second)
    states.set_state(3, third)
    assert WorkerPlace(states, 1, Path(), first=True).reason_elsewhere() == reason


def test_what_a_worker_says_of_itself_is_not_asked_of_the_others():
    states = WorkerStates.make(multiprocessing.get_context("spawn"), 1)
    assert WorkerPlace(states, 1, Path(), first=True).reason_elsewhere() is None


def test_the_states_count_who_takes_requests_and_know_all_processes():
    states = WorkerStates.make(multiprocessing.get_context("spawn"), 3)
    states.set_state(1, State.READY)
    states.set_state(3, State.BROKEN)
    states.pids[0], states.pids[-1] = 12, 34
    assert (states.workers, states.ready, list(states.processes())) == (3, 1, [12, 34])


def test_what_workers_share_lies_among_temporary_files_and_is_removed():
    with shared_folder() as folder:
        assert folder.parent == Path(tempfile.gettempdir())
        (folder / "file").touch()
    assert not folder.exists()


def test_without_such_a_folder_it_lies_in_shared_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    monkeypatch.setattr(worker_states, "_MEMORY", str(tmp_path))
    with shared_folder() as folder:
        assert folder.parent == tmp_path


def test_where_neither_can_be_written_it_says_what_would_help(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    monkeypatch.setattr(worker_states, "_MEMORY", str(tmp_path / "none"))
    with (
        pytest.raises(UsageError, match=r"mount one at /tmp, or name one in TMPDIR"),
        shared_folder(),
    ):
        pass


def test_without_shared_memory_it_says_so():
    def fail(*_):
        raise PermissionError("read-only")

    with pytest.raises(UsageError, match="needs shared memory in /dev/shm: read-only"):
        WorkerStates.make(SimpleNamespace(RawArray=fail), 2)
