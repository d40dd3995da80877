"""What a measurement or an artifact was made on: processor, memory, library versions."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from pydantic import BaseModel, ConfigDict

LIBRARIES = (
    "torch",
    "onnx",
    "onnxscript",
    "transformers",
    "fvcore",
    "numpy",
    "pillow",
)
"""Distributions whose versions are recorded when installed, besides those of the runtimes."""


class Environment(BaseModel):
    """The machine and the libraries.

    Attributes:
        cpu: processor name as the system gives it.
        cpu_features: instruction sets that matter for speed here.
        cores: cores that this process may use.
        memory_gib: memory that this process may use, GiB.
        system: operating system and architecture.
        python: interpreter version.
        libraries: version of each installed distribution that matters.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu: str
    cpu_features: tuple[str, ...]
    cores: int
    memory_gib: float
    system: str
    python: str
    libraries: dict[str, str]

    @classmethod
    def here(cls, distributions: Sequence[str] = ()) -> Environment:
        """Describe this process's machine.

        Args:
            distributions: packages whose versions are recorded besides `LIBRARIES`, such as
                those of `lavit_deploy.runtimes.specs.distributions`.
        """
        return cls(
            cpu=_cpu_name(),
            cpu_features=_cpu_features(),
            cores=available_cores(),
            memory_gib=round(available_memory() / 2**30, 1),
            system=f"{platform.system()} {platform.machine()}",
            python=platform.python_version(),
            libraries=_library_versions((*LIBRARIES, *distributions)),
        )


def available_cores() -> int:
    """Cores this process may use: affinity mask and cgroup quota, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _cgroup_cpu_quota()
    return max(1, min(cores, math.ceil(quota)) if quota else cores)


def _cgroup_cpu_quota() -> float | None:
    """CPU limit of the container in cores, None when there is none (cgroup v2, then v1)."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text().strip()
            period = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if quota in {"max", "-1"}:
        return None
    return int(quota) / int(period)


def available_memory() -> int:
    """Memory this process may use, bytes: physical memory or the container's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return total if limit == "max" else min(total, int(limit))


def _cpuinfo(key: str) -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    except OSError:
        pass  # not Linux: the caller has another source
    return ""


def _cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpu_features() -> tuple[str, ...]:
    present = set(_cpuinfo("flags").split())
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    return tuple(name for name in wanted if name in present)


def _library_versions(distributions: Sequence[str]) -> dict[str, str]:
    versions = {}
    for name in distributions:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def command_line() -> list[str]:
    """The command that is running, its program by name alone."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]
