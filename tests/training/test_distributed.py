"""Two real processes under torchrun, gradients exchanged by gloo."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("torchrun_script.py")


def launch(processes, *trainings):
    """Run trainings (folder, step to stop after, whether to resume) one after the other."""
    arguments = []
    for out, stop_after, resume in trainings:
        out.mkdir(exist_ok=True)
        arguments += [str(out), str(stop_after), "resume" if resume else "new"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(processes), str(SCRIPT), *arguments),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def weights_of(out, processes):
    return [torch.load(out / f"weights{rank}.pth", weights_only=True) for rank in range(processes)]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Folders of a training that went straight on, and of one that a signal stopped."""
    straight, stopped = (tmp_path_factory.mktemp(name) for name in ("straight", "stopped"))
    launch(2, (straight, 0, False), (stopped, 2, False))
    return straight, stopped


@pytest.fixture(scope="module")
def two(both):
    return both[0], weights_of(both[0], 2)


def test_two_processes_end_with_the_same_weights_and_one_writes(two):
    out, (first, second) = two
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)
    assert sorted(path.name for path in (out / "rank0").iterdir()) == [
        "best.pth",
        "good.pth",
        "last.pth",
        "metrics.csv",
        "recipe.json",
    ]
    assert not (out / "rank1").exists()


def test_two_processes_train_as_one_would(two, tmp_path):
    """The same batches, split: gradients agree up to the order of float32 sums.

    AdamW divides by the gradient's size, so an element whose gradient is all rounding can move by
    a whole learning rate (1e-3 a step, 6 steps) in another direction: few may, most agree closely.
    """
    _, (first, _) = two
    launch(1, (tmp_path / "one", 0, False))
    (alone,) = weights_of(tmp_path / "one", 1)
    differences = torch.cat([(first[name] - alone[name]).abs().flatten() for name in first])
    assert differences.quantile(0.95) < 1e-5
    assert differences.max() < 1e-2
    rows = [
        (folder / "rank0" / "metrics.csv").read_text().splitlines()
        for folder in (two[0], tmp_path / "one")
    ]
    losses = [[float(line.split(",")[3]) for line in file[1:]] for file in rows]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_signal_to_one_process_stops_both_and_they_resume_bit_for_bit(both, two):
    _, (straight, _) = two
    _, out = both
    state = torch.load(out / "rank0" / "last.pth", weights_only=True)
    assert state["position"] == [0, 2]
    launch(2, (out, 0, True))
    resumed, _ = weights_of(out, 2)
    assert all(resumed[name].equal(straight[name]) for name in straight)
    rows = [
        [line.split(",")[:8] for line in (folder / "rank0" / "metrics.csv").read_text().split()]
        for folder in (two[0], out)
    ]
    assert rows[0] == rows[1]
