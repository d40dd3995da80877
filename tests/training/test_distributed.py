"""Two real processes under torchrun, gradients exchanged by gloo."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("torchrun_script.py")


def launch(processes, out, stop_after=0, resume="new"):
    out.mkdir(exist_ok=True)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(processes), str(SCRIPT)),
            *(str(out), str(stop_after), resume),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(out / f"weights{rank}.pth", weights_only=True) for rank in range(processes)]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    out = tmp_path_factory.mktemp("two")
    return out, launch(2, out)


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
    (alone,) = launch(1, tmp_path / "one")
    differences = torch.cat([(first[name] - alone[name]).abs().flatten() for name in first])
    assert differences.quantile(0.95) < 1e-5
    assert differences.max() < 1e-2
    rows = [
        (folder / "rank0" / "metrics.csv").read_text().splitlines()
        for folder in (two[0], tmp_path / "one")
    ]
    losses = [[float(line.split(",")[3]) for line in file[1:]] for file in rows]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_signal_to_one_process_stops_both_and_they_resume_bit_for_bit(two, tmp_path):
    _, (straight, _) = two
    out = tmp_path / "stopped"
    launch(2, out, stop_after=2)
    state = torch.load(out / "rank0" / "last.pth", weights_only=True)
    assert state["position"] == [0, 2]
    resumed, _ = launch(2, out, resume="resume")
    assert all(resumed[name].equal(straight[name]) for name in straight)
    rows = [
        [line.split(",")[:8] for line in (folder / "rank0" / "metrics.csv").read_text().split()]
        for folder in (two[0], out)
    ]
    assert rows[0] == rows[1]
