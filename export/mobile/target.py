"""Files of one mobile format: converted, run and timed in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from lavit_deploy.common.atomic_files import write_text
from lavit_deploy.common.environment import available_cores
from lavit_deploy.common.errors import ExportError, MissingDependencyError, UsageError
from lavit_deploy.export.judging.context import BuildContext, extra_file, with_precision
from lavit_deploy.export.mobile.formats.format import Format, MobileVariant
from lavit_deploy.export.mobile.metadata_file import as_json, sidecar
from lavit_deploy.export.mobile.mobile_model import mobile_form, write_program
from lavit_deploy.export.mobile.tool_environment import (
    ToolEnvironment,
    find_tool_environment,
    interpreter_variable,
)
from lavit_deploy.export.request import Request
from lavit_deploy.export.targets.target import NotBuilt, Planned, Progress, Step, Target
from lavit_deploy.manifest import (
    Artifact,
    BatchRange,
    BatchTiming,
    Footprint,
    Parity,
)

FAILED = "failed"
"""Folder in the bundle for files that do not predict what the checkpoint does: who copies files out
of a bundle by their names, without reading its manifest, must not come upon these."""

_ONE = BatchRange(minimum=1, optimum=1, maximum=1)


def plan_format(form: Format, request: Request) -> Planned:
    """Plan a format that was asked for.

    Raises:
        MissingDependencyError: it is asked for by name and its packages are not there.
        UsageError: the same of a Python that the user names.
    """
    named = form.name in request.targets
    if not named and not request.mobile:
        return Planned(())
    tools = find_tool_environment(form.name, form.modules)
    if tools is None:
        if named and os.environ.get(interpreter_variable(form.name)):
            raise UsageError(f"--target {form.name}: {_missing(form)}")
        if named:
            raise MissingDependencyError(
                next((name for name in form.modules if find_spec(name) is None), form.modules[0]),
                extra=form.name,
                purpose=f"build {form.name} files (or a Python that has it in "
                f"{interpreter_variable(form.name)})",
            )
        return Planned((Step(form.name, "skip", _missing(form)),))
    steps = tuple(Step(item.name, "build", item.why) for item in form.variants)
    return Planned(steps, MobileTarget(form, form.variants, tools))


def _missing(form: Format) -> str:
    name = interpreter_variable(form.name)
    bring = f"pip install {form.requirement}"
    if named := os.environ.get(name):
        if shutil.which(named) is None:
            return f"{name} names {named}, which is no program"
        return f"{named} ({name}) lacks {' or '.join(form.modules)}: {bring}"
    return f"not installed: {bring} (or name a Python that has it in {name})"


@dataclass(frozen=True)
class MobileTarget(Target):
    """The files of one format.

    Attributes:
        form: the format.
        variants: which to build.
        tools: the Python that has its packages.
    """

    form: Format
    variants: tuple[MobileVariant, ...]
    tools: ToolEnvironment

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(item.name for item in self.variants)

    def build(
        self, context: BuildContext, folder: Path, progress: Progress
    ) -> Iterator[Artifact | NotBuilt]:
        with tempfile.TemporaryDirectory() as scratch:
            job = _Conversion(self, context, folder, Path(scratch))
            for variant in self.variants:
                progress(variant.name)
                try:
                    yield job.artifact(variant)
                except ExportError as error:  # of its tools; other files do not depend on this one
                    yield NotBuilt(variant.name, str(error))


@dataclass(frozen=True)
class _Conversion:
    target: MobileTarget
    context: BuildContext
    folder: Path
    scratch: Path

    @cached_property
    def source(self) -> Path:
        """What is converted, written when first asked for."""
        source = self.target.form.source
        if source == "onnx":
            return self.context.graph("fp32", self.folder).file
        model = mobile_form(self.context.model, self.context.checkpoint.preprocess)
        path = self.scratch / f"{source}.pt2"
        write_program(model, path, planar=source == "planar")
        return path

    @cached_property
    def pictures(self) -> Path:
        path = self.scratch / "pictures.npy"
        np.save(path, self.context.pictures.images)
        return path

    def artifact(self, variant: MobileVariant) -> Artifact:
        """Build one file, judge and measure it, and only then move it into the bundle.

        Raises:
            ExportError: its tools failed; nothing of it is in the bundle.
        """
        form = self.target.form
        out = self.scratch / variant.name / f"model.{variant.suffix}"
        out.parent.mkdir()
        about = sidecar(self.context.checkpoint, form, out.name)
        start = time.perf_counter()
        made = self._convert(variant, out, about)
        seconds = time.perf_counter() - start
        write_text(out.with_name(f"{out.name}.json"), as_json(about))
        parity = with_precision(self._parity(variant, out), variant.precision, made["found"])
        timings, footprint, share = self._measure(out)
        files = self._moved(out, passed=parity.passed)
        return self.context.artifact(
            files[0],
            folder=self.folder,
            name=variant.name,
            extra_files=tuple(extra_file(item, self.folder) for item in files[1:]),
            runtime=form.name,
            version=made["version"],
            form=made["format"],
            asked=variant.precision,
            found=made["found"],
            folded=form.source != "onnx" or self.context.folded is not None,
            types={},
            batch=_ONE,
            devices=("cpu",),
            device="cpu",
            seconds=seconds,
            parity=parity,
            timings=timings,
            footprint=footprint,
            undelegated_operators=made["undelegated"],
            undelegated_share=share,
        )

    def _moved(self, out: Path, *, passed: bool) -> list[Path]:
        """Move a file and what is beside it into the bundle; gives all, the program first."""
        place = self.folder if passed else self.folder / FAILED
        place.mkdir(exist_ok=True)
        for item in out.parent.iterdir():
            shutil.move(item, place)
        moved = place / out.name
        return [*_files(moved), moved.with_name(f"{out.name}.json")]

    def _convert(self, variant: MobileVariant, out: Path, about: dict[str, Any]) -> dict[str, Any]:
        job, facts = self.scratch / "job.json", self.scratch / "facts.json"
        wanted = {
            "program": str(self.source),
            "out": str(out),
            "precision": variant.precision,
            "about": about,
        }
        job.write_text(json.dumps(wanted), encoding="utf-8")
        self.target.tools.call("convert", str(job), str(facts))
        return json.loads(facts.read_text(encoding="utf-8"))

    def _parity(self, variant: MobileVariant, out: Path) -> Parity:
        """Run the file on every picture in its own runtime."""
        logits = self.scratch / "logits.npy"
        self.target.tools.call("run", str(out), str(self.pictures), str(logits))
        return self.context.task.compare(
            np.load(logits),
            self.context.reference,
            variant.precision,
            source=self.context.pictures.source,
            method=self.target.form.method,
        )

    def _measure(self, out: Path) -> tuple[tuple[BatchTiming, ...], Footprint | None, float | None]:
        """Latency with one thread and with two, load time and memory, time outside the delegate.

        Nothing is measured of a stand-in. The last three are those of the most threads.
        """
        if self.target.form.method != "run":
            return (), None, None
        timings, made = [], {}
        for threads in sorted({1, min(2, available_cores())}):
            facts = self.scratch / "measured.json"
            self.target.tools.call(
                "measure", str(out), str(self.pictures), str(threads), str(facts)
            )
            made = json.loads(facts.read_text(encoding="utf-8"))
            timings.append(
                BatchTiming(
                    batch=1,
                    median_ms=made["median_ms"],
                    images_per_second=1e3 / made["median_ms"],
                    runs=made["runs"],
                    threads=threads,
                )
            )
        footprint = Footprint(
            load_seconds=round(made["load_seconds"], 4),
            batch=1,
            peak_mib=round(made["peak_mib"], 1),
            own_mib=round(made["own_mib"], 1),
        )
        return tuple(timings), footprint, made["undelegated_share"]


def _files(out: Path) -> Sequence[Path]:
    """The files of an artifact, the one with the program first."""
    if out.is_dir():  # an .mlpackage
        return sorted((item for item in out.rglob("*") if item.is_file()), key=_program_first)
    weights = out.with_suffix(".bin")
    return [out, weights] if out.suffix == ".param" else [out]


def _program_first(file: Path) -> tuple[bool, str]:
    return file.suffix != ".mlmodel", str(file)
