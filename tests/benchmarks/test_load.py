"""The load generator: its schedule does not wait for the server, and its latencies say so."""

import math
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="its timer is Linux's timerfd")


def test_requests_due_while_the_server_stalls_are_sent_and_their_wait_is_counted(server, load):
    server.stall = (0.5, 1.5)
    summary, samples = load("--rate", "100", "--seconds", "2", "--schedule", "constant")

    assert summary["sent"] == summary["ok"] == 200
    # A metronome at 100/s: those due at 0.5 ... 1.5 s are answered at 1.5 s and not before. The
    # margin of 0.1 s on both sides is for a busy machine's delay of the first request.
    stalled = [sample for sample in samples if 0.6 <= sample["due"] < 1.4]
    assert len(stalled) == 80
    for sample in stalled:
        assert sample["latency"] >= 1.5 - sample["due"] - 0.1
    # One client that waits for each answer would have seen one slow request in all.
    assert summary["latency_ms"]["p95"] >= 800


def test_a_request_that_finds_no_free_connection_counts_from_its_scheduled_time(server, load):
    server.stall = (0.0, 1.0)
    summary, samples = load(
        "--rate", "50", "--seconds", "1", "--schedule", "constant", "--connections", "1"
    )

    assert summary["ok"] == 50
    # All behind the first, which is answered after a second.
    for sample in samples:
        assert sample["latency"] >= 1.0 - sample["due"] - 0.1


def test_a_poisson_schedule_is_the_same_for_the_same_seed_and_another_for_another(load):
    due = [
        sorted(sample["due"] for sample in load("--rate", "100", "--seconds", "1", *seed)[1])
        for seed in (("--seed", "1"), ("--seed", "1"), ("--seed", "2"))
    ]

    assert due[0] == due[1] != due[2]
    # Independent arrivals: 100 expected, standard deviation 10; five of them is one in a million,
    # and the seeds are fixed.
    assert math.isclose(len(due[0]), 100, abs_tol=50)


def test_a_connection_that_is_closed_without_an_answer_is_counted_as_lost(server, load):
    server.hang_up = True
    summary, _ = load("--rate", "50", "--seconds", "1", "--schedule", "constant")

    assert summary["statuses"] == {"0": 50}
    assert summary["ok"] == 0
    assert summary["latency_ms"] == {}


def test_clients_of_a_closed_load_have_one_request_each_under_way(server, load):
    server.stall = (0.0, 1.0)
    summary, samples = load("--clients", "7", "--seconds", "0.9")

    # Nothing is answered within the measured time, and nobody sent a second request.
    assert server.received == 7
    assert summary["sent"] == 0
    assert samples == []
