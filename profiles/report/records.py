"""Records of the report about counts, splits and growth: plain data, read back with pydantic."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Base of every record: immutable, and without fields that nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Cell(Record):
    """One part of one stage, for one image in float32.

    Attributes:
        stage: stage, "head", or "other".
        part: one of `lavit_deploy.profiles.counting.parts.PARTS`, or "other".
        parameters: trainable parameters.
        multiply_adds: of convolutions and matrix products.
        activations: elements that convolutions and matrix products write (Radosavovic et al.,
            arXiv:2003.13678); scores that a fused operator never writes are not among them.
        bytes_moved: bytes that all operators read, weights included, and write, each operator for
            itself, as if nothing stayed in a cache.
    """

    stage: str
    part: str
    parameters: int
    multiply_adds: int
    activations: int
    bytes_moved: int


class OperatorCost(Record):
    """One operator, for one image in float32.

    Attributes:
        operator: its name in the traced graph, such as "aten::linear".
        calls: how often it runs.
        multiply_adds: 0 for one that has none.
        activations: elements that it writes, if it is a convolution or matrix product.
        elements: elements that it writes, whatever it is.
        bytes_moved: bytes that it reads and writes.
    """

    operator: str
    calls: int
    multiply_adds: int
    activations: int
    elements: int
    bytes_moved: int


class ModuleCost(Record):
    """One module with everything inside it, for one image in float32; fields as in `Cell`.

    Attributes:
        module: dotted name; "" is the whole model.
        parameters: trainable parameters.
        multiply_adds: of convolutions and matrix products.
        activations: elements that convolutions and matrix products write.
        bytes_moved: bytes that all operators read and write.
    """

    module: str
    parameters: int
    multiply_adds: int
    activations: int
    bytes_moved: int


class TimeCell(Record):
    """Measured time of one part of one stage.

    Attributes:
        stage: as in `Cell`, by which the two are joined.
        part: likewise.
        milliseconds: per call of the whole batch.
    """

    stage: str
    part: str
    milliseconds: float


class TimeSplit(Record):
    """Where the time of a call went.

    Attributes:
        method: how it was measured.
        batch: images per call.
        calls: calls that were measured; every time is the median over them.
        cells: attributed time.
        total_ms: time of the whole call, measured with the same instrument switched on.
        unattributed_ms: what belongs to no part, or to no operator at all: `total_ms` less the sum
            of `cells`.
        unattributed: where most of it went, the largest first.
    """

    method: str
    batch: int
    calls: int
    cells: tuple[TimeCell, ...]
    total_ms: float
    unattributed_ms: float
    unattributed: tuple[str, ...] = ()

    @property
    def unattributed_share(self) -> float:
        """Share of the call that could not be attributed, 0 to 1."""
        return self.unattributed_ms / self.total_ms if self.total_ms else 0.0


class GrowthPart(Record):
    """Multiply-adds of one part over several image sizes.

    Attributes:
        part: one of `lavit_deploy.profiles.counting.parts.PARTS`.
        multiply_adds: one for each size.
        exponent: fitted power of the number of pixels: 1 grows linearly with them, 2 with their
            square; 0 does not grow.
    """

    part: str
    multiply_adds: tuple[int, ...]
    exponent: float


class Growth(Record):
    """How multiply-adds grow with the image.

    Attributes:
        sizes: sides of square images, pixels.
        parts: every part that the model has.
        total: their sum, one for each size.
        total_exponent: fitted power of the number of pixels.
    """

    sizes: tuple[int, ...]
    parts: tuple[GrowthPart, ...]
    total: tuple[int, ...]
    total_exponent: float


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


class BatchLimit(Record):
    """A batch that did not fit into memory.

    Attributes:
        batch: images per call that were asked for.
        halved_to: the batch that was timed in its place; None where not even one image fits.
        reason: what ran out.
    """

    batch: int
    halved_to: int | None
    reason: str


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
