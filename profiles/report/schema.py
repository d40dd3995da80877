"""The report as data: a pydantic model for JSON, and its rows for CSV."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lavit_deploy.common.atomic_files import write_text
from lavit_deploy.common.environment import Environment
from lavit_deploy.common.errors import UsageError
from lavit_deploy.manifest import Device
from lavit_deploy.profiles.report.records import (
    BatchLimit,
    Cell,
    Growth,
    MachineState,
    ModuleCost,
    OperatorCost,
    Peaks,
    RooflinePoint,
    TimeSplit,
)

SCHEMA_VERSION: Literal[1] = 1
"""Raised whenever a reader of the version before would misunderstand a report."""

CONVENTION = (
    "FLOPs are multiply-adds: one multiply and one add are one operation. Convolutions and matrix "
    "products count, fused attention like its eager form; biases, norms, softmax, activations and "
    "sums do not."
)
"""The counting convention, printed with every count."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class UncountedOperator(_Record):
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


class Counts(_Record):
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
    by_operator: dict[str, int] = {}
    uncounted: tuple[UncountedOperator, ...] = ()

    @property
    def unknown(self) -> tuple[UncountedOperator, ...]:
        """Uncounted operators that may be matrix products or convolutions."""
        return tuple(operator for operator in self.uncounted if operator.reason is None)


class PublishedCounts(_Record):
    """What the authors print.

    Attributes:
        parameters_m: parameters, millions.
        gflops: multiply-adds, 10^9.
        source: where.
    """

    parameters_m: float
    gflops: float
    source: str


class Timing(_Record):
    """One batch size of one model.

    Attributes:
        batch: images per call.
        calls: timed calls.
        turns: turns that they were taken in.
        warmup_calls: untimed calls before the first turn.
        settled: whether the warm-up ended stable.
        median_ms: latency of a call, the median over turns of their medians, milliseconds.
        median_low_ms: lower end of its 95 % confidence interval; None for too few turns.
        median_high_ms: upper end.
        p50_ms: 50th percentile over all calls; None for fewer than 2 calls.
        p90_ms: 90th percentile; None for fewer than 10 calls.
        p95_ms: 95th percentile; None for fewer than 20 calls.
        p99_ms: 99th percentile; None for fewer than 100 calls.
        images_per_second: batch divided by the median.
        peak_memory_bytes: most bytes of tensors alive at once, without weights; None if unknown.
    """

    batch: int = Field(ge=1)
    calls: int
    turns: int
    warmup_calls: int
    settled: bool
    median_ms: float
    median_low_ms: float | None
    median_high_ms: float | None
    p50_ms: float | None = None
    p90_ms: float | None = None
    p95_ms: float | None
    p99_ms: float | None
    images_per_second: float
    peak_memory_bytes: int | None


class ModelReport(_Record):
    """One model.

    Attributes:
        label: as given on the command line.
        kind: where it came from.
        runtime: what ran it.
        precision: of weights and activations.
        attention: implementation of attention.
        image_size: height and width, pixels.
        parameters: trainable parameters.
        parameters_by_part: part -> parameters.
        counts: multiply-adds of one image.
        published: the authors' counts, for a model of theirs at their size.
        notes: what a reader must know about this model's numbers.
        cells: costs by stage and part, traced.
        operators: costs by operator, traced.
        modules: costs by module, traced.
        time_splits: where the time went, for each batch size that was asked for.
        growth: multiply-adds over image sizes, if asked for.
        roofline: stages against the peaks of the machine, if those were measured.
        limits: batches that did not fit into memory.
        timings: one entry for each batch size that was timed.
    """

    label: str
    kind: Literal["preset", "checkpoint", "baseline", "artifact"]
    runtime: str
    precision: str
    attention: str
    image_size: tuple[int, int]
    parameters: int
    parameters_by_part: dict[str, int]
    counts: Counts
    published: PublishedCounts | None = None
    notes: tuple[str, ...] = ()
    cells: tuple[Cell, ...] = ()
    operators: tuple[OperatorCost, ...] = ()
    modules: tuple[ModuleCost, ...] = ()
    time_splits: tuple[TimeSplit, ...] = ()
    growth: Growth | None = None
    roofline: tuple[RooflinePoint, ...] = ()
    limits: tuple[BatchLimit, ...] = ()
    timings: tuple[Timing, ...] = ()


class Comparison(_Record):
    """Two models at one batch size.

    Attributes:
        model: the first.
        reference: the second.
        batch: images per call.
        speedup: how many times faster the first is: the median over rounds of the reference's
            latency over the first's.
        low: lower end of its 95 % confidence interval; None for too few turns.
        high: upper end.
        winner: the faster model, None inside the noise.
    """

    model: str
    reference: str
    batch: int
    speedup: float
    low: float | None
    high: float | None
    winner: str | None


class Report(_Record):
    """A whole run of `lavit-profile`.

    Attributes:
        schema_version: `SCHEMA_VERSION` of the writer.
        project_version: version of lavit-deploy.
        created: time of writing, ISO 8601 UTC.
        command: the command line.
        environment: machine and libraries.
        device: "cpu" or "cuda".
        gpu: the GPU's name, if one was used.
        threads: threads within an operator on the CPU.
        load: processes that wanted a core in the minute before the run (load average): what others
            took.
        commit: of the source that measured, "+" appended where files were changed; None for an
            installed package.
        before: state of the machine before the run.
        after: and when the report was written.
        peaks: what the machine can do at most, if measured.
        convention: what a FLOP is here.
        method: how timings were taken; None where nothing was timed.
        complete: False where the run was interrupted.
        models: in the order of the command line.
        comparisons: asked for by --compare.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    project_version: str
    created: str
    command: tuple[str, ...]
    environment: Environment
    device: Device
    gpu: str | None = None
    threads: int
    load: float
    commit: str | None = None
    before: MachineState | None = None
    after: MachineState | None = None
    peaks: Peaks | None = None
    convention: str = CONVENTION
    method: str | None
    complete: bool
    models: tuple[ModelReport, ...]
    comparisons: tuple[Comparison, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Report:
        """Read a report that `write_json` wrote.

        Raises:
            UsageError: no such file, or not a report of this version.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise UsageError(
                f"{path} is no report of lavit-profile: {where}: {first['msg']}; --json FILE "
                "writes one"
            ) from None

    def write_json(self, path: Path) -> None:
        """Write the whole report."""
        write_text(path, self.model_dump_json(indent=2) + "\n")

    def write_csv(self, path: Path) -> None:
        """Write one row for each model and batch size; one row for a model that was not timed."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=_COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for model in self.models:
            about = {
                **model.model_dump(include=set(_MODEL_COLUMNS)),
                "image_height": model.image_size[0],
                "image_width": model.image_size[1],
                "multiply_adds": model.counts.total,
            }
            for timing in model.timings or (None,):
                writer.writerow(about | (timing.model_dump() if timing else {}))
        write_text(path, text.getvalue())


_MODEL_COLUMNS = ("label", "kind", "runtime", "precision", "attention", "parameters")
_COLUMNS = (
    *_MODEL_COLUMNS,
    "image_height",
    "image_width",
    "multiply_adds",
    *Timing.model_fields,
)


def json_schema() -> str:
    """JSON Schema of a report, as `docs/profile.schema.json` holds it."""
    schema = Report.model_json_schema(mode="serialization")
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    print(json_schema(), end="")
