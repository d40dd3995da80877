"""The machine that measured: its state before and after, and what it can do at most."""

from __future__ import annotations

from typing import Literal

from lavit_deploy.profiles.report.record import Record


class MachineState(Record):
    """A moment of the machine; None for what it does not tell.

    Attributes:
        clock_mhz: mean over the cores' current clocks, MHz.
        governor: Linux' frequency policy, such as "performance".
        temperature_c: the hottest thermal zone, degrees Celsius.
        stolen_seconds: core-seconds since boot that a hypervisor gave to other guests.
        gpu_clock_mhz: of the GPU's multiprocessors.
        gpu_memory_clock_mhz: of its memory.
        gpu_temperature_c: degrees Celsius.
        gpu_power_w: watts.
    """

    clock_mhz: float | None = None
    governor: str | None = None
    temperature_c: float | None = None
    stolen_seconds: float | None = None
    gpu_clock_mhz: float | None = None
    gpu_memory_clock_mhz: float | None = None
    gpu_temperature_c: float | None = None
    gpu_power_w: float | None = None


class MatrixPeak(Record):
    """The fastest matrix product.

    Attributes:
        precision: of both factors and the product.
        multiply_adds_per_second: reached.
        size: side of the square matrices that reached it.
    """

    precision: str
    multiply_adds_per_second: float
    size: int


class Peaks(Record):
    """What the machine reached at most, each the fastest of several calls.

    Attributes:
        products: one for each precision.
        copy_bytes_per_second: bytes read and written by a copy within memory.
        copied_bytes: size of the block that was copied.
        calls: calls that the fastest was taken of.
    """

    products: tuple[MatrixPeak, ...]
    copy_bytes_per_second: float
    copied_bytes: int
    calls: int

    def of(self, precision: str) -> MatrixPeak | None:
        """The peak in a precision; None where it was not measured."""
        return next((peak for peak in self.products if peak.precision == precision), None)


class RooflinePoint(Record):
    """One stage at one batch size against the machine's peaks.

    Attributes:
        stage: as in `Cell`.
        batch: images per call.
        milliseconds: measured time of the stage's parts.
        intensity: multiply-adds per byte moved.
        multiply_adds_per_second: achieved.
        bytes_per_second: achieved; above the peak of copies where data stayed in a cache.
        bound: most multiply-adds per second that the peaks allow at this intensity.
        limit: which of the two peaks that is.
    """

    stage: str
    batch: int
    milliseconds: float
    intensity: float
    multiply_adds_per_second: float
    bytes_per_second: float
    bound: float
    limit: Literal["matrix product", "memory"]

    @property
    def share(self) -> float:
        """Achieved speed over the bound: above 1 where data stayed in a cache."""
        return self.multiply_adds_per_second / self.bound


def describe(before: MachineState | None, after: MachineState | None) -> str:
    """One line about both moments; says what the machine hides."""
    if before is None or after is None:
        return "clocks and temperature were not recorded"
    said = [
        _change("clock", before.clock_mhz, after.clock_mhz, "MHz"),
        _change("temperature", before.temperature_c, after.temperature_c, "degrees Celsius"),
        _change("GPU clock", before.gpu_clock_mhz, after.gpu_clock_mhz, "MHz"),
        _change("GPU memory clock", before.gpu_memory_clock_mhz, after.gpu_memory_clock_mhz, "MHz"),
        _change("GPU temperature", before.gpu_temperature_c, after.gpu_temperature_c, "C"),
        _change("GPU power", before.gpu_power_w, after.gpu_power_w, "W"),
    ]
    if before.governor:
        said.append(f"governor {before.governor}")
    if before.stolen_seconds is not None and after.stolen_seconds is not None:
        stolen = after.stolen_seconds - before.stolen_seconds
        said.append(f"taken by other guests of the hypervisor: {stolen:.1f} core-seconds")
    if before.temperature_c is None and before.gpu_temperature_c is None:
        said.append("no thermal sensor is visible")
    return "; ".join(filter(None, said))


def _change(what: str, before: float | None, after: float | None, unit: str) -> str:
    if before is None or after is None:
        return ""
    return f"{what} {before:.0f} {unit} before, {after:.0f} after"
