import multiprocessing
from pathlib import Path

import pytest

from lavit_deploy.serving.process.worker_states import State, WorkerPlace, WorkerStates

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
