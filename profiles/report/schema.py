"""A whole report: a pydantic model for JSON, and its rows for CSV."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from lavit_deploy.common.atomic_files import write_text
from lavit_deploy.common.environment import Environment
from lavit_deploy.common.errors import UsageError
from lavit_deploy.manifest import Device
from lavit_deploy.profiles.report.costs import (
    Cell,
    Counts,
    Growth,
    ModuleCost,
    OperatorCost,
    PublishedCounts,
)
from lavit_deploy.profiles.report.machine import MachineState, Peaks, RooflinePoint
from lavit_deploy.profiles.report.record import Record
from lavit_deploy.profiles.report.times import BatchLimit, Comparison, TimeSplit, Timing

SCHEMA_VERSION: Literal[1] = 1
"""Raised whenever a reader of the version before would misunderstand a report."""

CONVENTION = (
    "FLOPs are multiply-adds: one multiply and one add are one operation. Convolutions and matrix "
    "products count, fused attention like its eager form; biases, norms, softmax, activations and "
    "sums do not."
)
"""The counting convention, printed with every count."""


class ModelReport(Record):
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


class Report(Record):
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
