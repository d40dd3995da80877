"""The state that a machine is in while it measures: clocks, temperature, what others took of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from lavit_deploy.manifest import Device
from lavit_deploy.profiles.report.machine import MachineState

_GPU_FIELDS = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw")
_SECONDS = 10


def machine_state(device: Device, *, root: Path = Path("/")) -> MachineState:
    """Look at the machine.

    Args:
        device: whether to ask for the GPU as well.
        root: where `proc` and `sys` are found.
    """
    return MachineState(
        clock_mhz=_clock(root),
        governor=_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        temperature_c=_temperature(root),
        stolen_seconds=_stolen(root),
        **(_gpu() if device == "cuda" else {}),
    )


def _clock(root: Path) -> float | None:
    lines = (_text(root / "proc/cpuinfo") or "").splitlines()
    clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return sum(clocks) / len(clocks) if clocks else None


def _temperature(root: Path) -> float | None:
    zones = (_text(path) for path in sorted(root.glob("sys/class/thermal/thermal_zone*/temp")))
    return max((int(zone) / 1000 for zone in zones if zone), default=None)  # millidegrees


def _stolen(root: Path) -> float | None:
    fields = (_text(root / "proc/stat") or "").split("\n", 1)[0].split()
    return int(fields[8]) / 100 if len(fields) > 8 else None  # hundredths of a second, proc(5)


def _gpu() -> dict[str, float]:
    """What the driver's tool tells about the first GPU; nothing where it is missing."""
    answer = answer_of(
        "nvidia-smi", "-i", "0", f"--query-gpu={','.join(_GPU_FIELDS)}",
        "--format=csv,noheader,nounits",
    )  # fmt: skip
    names = ("gpu_clock_mhz", "gpu_memory_clock_mhz", "gpu_temperature_c", "gpu_power_w")
    values = (answer or "").split(",")
    return {
        name: float(value)
        for name, value in zip(names, values, strict=False)
        if value.strip().replace(".", "", 1).isdigit()
    }


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None


def answer_of(program: str, *arguments: str) -> str | None:
    """What a program printed; None where it is missing, fails, or takes ten seconds."""
    path = shutil.which(program)
    if path is None:
        return None
    try:
        ran = subprocess.run(  # noqa: S603 - a program found on PATH, with arguments of our own
            [path, *arguments], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    return ran.stdout.strip() if ran.returncode == 0 else None
