"""The programs for a machine with a GPU, run from end to end on one without."""

import importlib.util
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tiny_models import tiny_checkpoint_file, tiny_model, tiny_preprocess  # noqa: F401 - fixtures

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def run(name, folder, *arguments):
    """Run a program in a folder that is not the project's."""
    return subprocess.run(
        [sys.executable, ROOT / "benchmarks" / f"{name}.py", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TRITON_INTERPRET": "1"},
    )


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """What a program says that refuses to begin, run in this process: PyTorch is loaded here."""

    def said(name, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"), run_name="__main__")
        assert ended.value.code == 2
        captured = capsys.readouterr()
        assert (captured.out, captured.err.count("\n")) == ("", 1)
        assert not list(tmp_path.iterdir())
        return captured.err

    return said


def need(*modules):
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_check_says_so(refused):
    need("transformers")
    assert refused("gpu_check") == "error: no NVIDIA GPU here (nvidia-smi finds none)\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("name", ["gpu_inference", "la_kernel"])
def test_without_a_gpu_one_line_says_so(name, tmp_path):
    need("transformers")
    ran = run(name, tmp_path)
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: ")
    assert "NVIDIA GPU" in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cpu"], "it is for --smoke, a trial of this program"),
        (["--device", "cpu", "--smoke", "--plugin", "no.so"], "make plugin builds it"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message, refused):
    assert message in refused("gpu_check", *arguments)


def test_the_interpreter_is_for_a_trial_alone(tmp_path):
    ran = run("la_kernel", tmp_path, "--device", "cpu")
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert "--device cpu is for --smoke alone" in ran.stderr


def test_tiles_are_tried_for_as_long_as_there_is_time(tmp_path):
    need("triton")
    ran = run("la_kernel", tmp_path, "--device", "cpu", "--smoke", "--tune", "--minutes", "0")
    assert ran.returncode == 0, ran.stderr
    assert "0 other tiles tried, 144 not for lack of time" in ran.stdout


def test_the_check_runs_to_its_end_and_reports_every_step(tiny_checkpoint_file, tmp_path):
    """It runs the two benchmarks too; of the ways, those that compile nothing."""
    need("triton", "transformers")
    arguments = ["--ckpt", str(tiny_checkpoint_file), "--device", "cpu", "--smoke"]
    ran = run("gpu_check", tmp_path, *arguments, "--out", "check")
    report = json.loads((tmp_path / "check" / "report.json").read_text())
    assert [(item["name"], item["detail"]) for item in report["checks"] if not item["passed"]] == []
    assert ran.returncode == 0, ran.stderr
    assert [item["name"] for item in report["checks"]] == [
        "export --fp16 --target onnx --batch 1 2 4",
        "tests marked gpu",
        "the kernel, timed",
        "whole models, timed",
    ]
    assert [item["name"] for item in report["artifacts"]] == ["onnx-fp32", "onnx-fp16"]
    assert "**No GPU: a trial" in (tmp_path / "check" / "report.md").read_text()
    models = json.loads((tmp_path / "check" / "gpu-inference" / "report.json").read_text())
    (row,) = models["rows"]
    assert set(row["ms"]) == {"eager", "onnxruntime"}
    assert not row["failed"]
    (kernel,) = json.loads((tmp_path / "check" / "la_kernel.json").read_text())["rows"]
    assert set(kernel["milliseconds"]) == {
        "eager",
        "torch.compile",
        "bias",
        "factored",
        "kernel",
        "kernel, any shape",
        "vanilla attention",
    }
    # Half precision: 2^-10 of a score, and the interpreter's products are no worse.
    assert max(kernel["error"].values()) < 5e-3
