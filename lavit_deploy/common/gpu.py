"""The NVIDIA GPU of this machine, asked of its driver without loading CUDA."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

_QUERY = "name,compute_cap,memory.total,memory.free,driver_version"
_SECONDS = 20


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        name: such as "NVIDIA GeForce RTX 4090".
        compute_capability: major and minor, such as (8, 9).
        memory_mib: all of its memory, MiB.
        free_mib: what no process holds, MiB.
        driver: version of the driver.
    """

    name: str
    compute_capability: tuple[int, int]
    memory_mib: int
    free_mib: int
    driver: str

    @property
    def capability(self) -> str:
        """The compute capability as text, such as "8.9"."""
        return ".".join(map(str, self.compute_capability))


def find_gpu() -> Gpu | None:
    """The first GPU; None where there is none, or no driver that answers."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    try:
        ran = subprocess.run(  # noqa: S603 - the driver's own program, with fixed arguments
            command, capture_output=True, text=True, timeout=_SECONDS, check=True
        )
        return _parse(ran.stdout.splitlines()[0])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def _parse(line: str) -> Gpu:
    name, capability, total, free, driver = (part.strip() for part in line.split(","))
    major, minor = capability.split(".")
    return Gpu(name, (int(major), int(minor)), int(total), int(free), driver)


def covers(built_for: tuple[str, ...], gpu: Gpu) -> bool:
    """Whether an engine for these compute capabilities runs on a GPU.

    Args:
        built_for: such as ("8.6", "8.9"), or ("8.0+",) for 8.0 and later.
        gpu: the GPU at hand.
    """
    for text in built_for:
        major, minor = map(int, text.removesuffix("+").split("."))
        if gpu.compute_capability == (major, minor):
            return True
        if text.endswith("+") and gpu.compute_capability >= (major, minor):
            return True
    return False
