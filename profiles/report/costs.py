"""What a model costs, whatever runs it: multiply-adds, bytes, and how they grow."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lavit_deploy.profiles.report.record import Record


class UncountedOperator(Record):
    """An operator that ran and was not counted.

    Attributes:
        operator: its name in the traced graph.
        calls: how often it runs for one image.
        elements: elements it writes for one image.
        reason: why it has no multiply-adds; None where that is unknown, and it may hide some.
    """

    operator: str
    calls: int
    elements: int
    reason: str | None


class Counts(Record):
    """Multiply-adds of one image.

    Attributes:
        total: all of them.
        method: "traced" from the model that runs; "closed form" from an artifact's configuration.
        closed_form: the same total by closed form, to be compared with `total`; None for an
            architecture that has none.
        by_part: part -> multiply-adds.
        by_stage: stage -> part -> multiply-adds.
        by_operator: operator -> multiply-adds; empty for a closed form.
        uncounted: operators that were not counted.
    """

    total: int
    method: Literal["traced", "closed form"]
    closed_form: int | None
    by_part: dict[str, int]
    by_stage: dict[str, dict[str, int]]
    by_operator: dict[str, int] = Field(default={})
    uncounted: tuple[UncountedOperator, ...] = ()

    @property
    def unknown(self) -> tuple[UncountedOperator, ...]:
        """Uncounted operators that may be matrix products or convolutions."""
        return tuple(operator for operator in self.uncounted if operator.reason is None)


class PublishedCounts(Record):
    """What the authors print.

    Attributes:
        parameters_m: parameters, millions.
        gflops: multiply-adds, 10^9.
        source: where.
    """

    parameters_m: float
    gflops: float
    source: str


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
