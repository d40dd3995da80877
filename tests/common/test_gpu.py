"""What the driver says of a GPU, through a program that stands for it."""

import pytest

from lavit_deploy.common.gpu import Gpu, covers, find_gpu

LINE = "NVIDIA GeForce RTX 4090, 8.9, 24564, 23800, 580.95.05"


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Install an `nvidia-smi` that runs these lines of a shell, and notes its arguments."""

    def install(script):
        program = tmp_path / "nvidia-smi"
        program.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/arguments"\n{script}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        return tmp_path / "arguments"

    return install


def test_the_first_gpu_is_described(driver):
    asked = driver(f"echo '{LINE}'\necho 'NVIDIA T4, 7.5, 15360, 15000, 580.95.05'")
    assert find_gpu() == Gpu("NVIDIA GeForce RTX 4090", (8, 9), 24564, 23800, "580.95.05")
    assert asked.read_text().split() == [
        "--query-gpu=name,compute_cap,memory.total,memory.free,driver_version",
        "--format=csv,noheader,nounits",
    ]


@pytest.mark.parametrize(
    "script",
    [
        "exit 9",  # the driver is not loaded
        "true",  # no card
        "echo 'No devices were found'",
        "echo 'NVIDIA X, [N/A], 1, 1, 580'",  # a card too old to have a compute capability
        "echo 'NVIDIA X, 8.9, [N/A], 1, 580'",
    ],
)
def test_where_the_driver_names_none_there_is_none(driver, script):
    driver(script)
    assert find_gpu() is None


def test_without_a_driver_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_gpu() is None


def test_a_program_that_cannot_be_started_is_no_driver(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_bytes(b"\x7fELF of another machine")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_gpu() is None


def test_the_compute_capability_is_written_as_nvidia_does():
    assert Gpu("x", (12, 0), 1, 1, "1").capability == "12.0"


@pytest.mark.parametrize(
    ("built_for", "here", "runs"),
    [
        (("8.9",), (8, 9), True),
        (("8.6",), (8, 9), False),  # an engine is for one, not for later ones
        (("8.6", "8.9"), (8, 9), True),
        (("8.0+",), (8, 9), True),
        (("8.0+",), (12, 1), True),
        (("9.0+",), (8, 9), False),
        (("8.9+",), (8, 9), True),
        (("10.0",), (1, 0), False),  # numbers, not text
        (("9.0+",), (10, 0), True),
        ((), (8, 9), False),
    ],
)
def test_an_engine_runs_where_it_was_built_for(built_for, here, runs):
    assert covers(built_for, Gpu("x", here, 1, 1, "1")) == runs
