"""What a machine says of itself, also inside a container."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lavit_deploy.common import environment
from lavit_deploy.common.environment import Environment, available_cores, available_memory

V2 = "/sys/fs/cgroup/cpu.max"
V1 = "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"
V1_PERIOD = "/sys/fs/cgroup/cpu/cpu.cfs_period_us"
MEMORY = "/sys/fs/cgroup/memory.max"
CPUINFO = "/proc/cpuinfo"


@pytest.fixture
def files(monkeypatch):
    """The files of the system that may be read, by their path, in place of this machine's."""
    known, read = {}, Path.read_text

    def read_text(path, **options):
        if not str(path).startswith(("/proc/", "/sys/")):
            return read(path, **options)  # of an installed package
        try:
            return known[str(path)]
        except KeyError:
            raise FileNotFoundError(path) from None

    monkeypatch.setattr(Path, "read_text", read_text)
    return known


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(8)), raising=False)


def test_cores_are_those_this_process_may_use():
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from lavit_deploy.common.environment import available_cores; print(available_cores())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("content", "cores"),
    [
        ({}, 8),
        ({V2: "max 100000\n"}, 8),
        ({V2: "50000 100000\n"}, 1),  # half a core
        ({V2: "150000 100000\n"}, 2),  # a part of a core is one more thread
        ({V2: "400000 100000\n"}, 4),
        ({V2: "1600000 100000\n"}, 8),  # a limit above what there is
        ({V1: "-1\n", V1_PERIOD: "100000\n"}, 8),
        ({V1: "300000\n", V1_PERIOD: "100000\n"}, 3),
        ({V2: "what is this", V1: "200000\n", V1_PERIOD: "100000\n"}, 2),
        ({V1: "300000\n"}, 8),  # without its period it says nothing
    ],
)
def test_a_containers_cpu_limit_counts(files, eight_cores, content, cores):
    files.update(content)
    assert available_cores() == cores


def test_where_there_is_no_affinity_the_cores_of_the_machine_count(files, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert available_cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cores() == 1


@pytest.mark.parametrize(
    ("content", "mib"),
    [({}, 1024), ({MEMORY: "max\n"}, 1024), ({MEMORY: f"{512 << 20}\n"}, 512),
     ({MEMORY: f"{1 << 62}\n"}, 1024)],
)  # fmt: skip
def test_a_containers_memory_limit_counts(files, monkeypatch, content, mib):
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": (1024 << 20) // 4096}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    files.update(content)
    assert available_memory() == mib << 20


def test_the_processor_is_the_one_that_linux_names(files, monkeypatch):
    files[CPUINFO] = (
        "processor\t: 0\nmodel name\t: Some CPU: 3 GHz\nflags\t\t: fpu avx2 avx512f amx_int8 sse\n"
        "processor\t: 1\nmodel name\t: Another CPU\n"
    )
    here = Environment.here()
    assert here.cpu == "Some CPU: 3 GHz"
    assert here.cpu_features == ("avx2", "avx512f", "amx_int8")


def test_without_that_file_python_names_the_processor(files, monkeypatch):
    monkeypatch.setattr(environment.platform, "processor", lambda: "")
    monkeypatch.setattr(environment.platform, "machine", lambda: "arm64")
    here = Environment.here()
    assert (here.cpu, here.cpu_features) == ("arm64", ())


def test_libraries_are_those_that_are_installed():
    here = Environment.here(("pytest", "no-such-distribution"))
    assert {"numpy", "pillow", "pytest"} <= set(here.libraries)
    assert "no-such-distribution" not in here.libraries
    assert here.libraries["pytest"] == pytest.__version__


def test_it_is_the_same_after_a_manifest():
    here = Environment.here()
    assert here.memory_gib > 0
    assert Environment.model_validate_json(here.model_dump_json()) == here


def test_the_command_is_named_without_the_path_of_its_program(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/home/me/.venv/bin/lavit-export", "--ckpt", "/data/m.pth"])
    assert environment.command_line() == ["lavit-export", "--ckpt", "/data/m.pth"]
