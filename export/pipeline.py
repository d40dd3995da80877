"""The whole way from a checkpoint to a bundle."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import onnx

from export.departure import first_departure
from export.onnx_graph import OPSET, write_onnx
from export.parity import TOLERANCES, compare, reference_logits, run_artifact
from export.pictures import Pictures
from export.plan import Plan
from export.precision import compute_types, precision_found, to_precision
from export.widening import widen
from lavit_deploy import __version__
from lavit_deploy.bundle import Bundle
from lavit_deploy.checkpoint import Checkpoint
from lavit_deploy.environment import Environment, command_line
from lavit_deploy.errors import UsageError
from lavit_deploy.files import atomic_directory, sha256_of
from lavit_deploy.manifest import Artifact, BatchRange, Device, Manifest, Parity, Precision, Timing
from lavit_deploy.manifest import Checkpoint as CheckpointRecord
from lavit_deploy.model import LaViT
from lavit_deploy.runtimes.base import Logits
from lavit_deploy.runtimes.onnxruntime import OnnxRuntime, import_onnxruntime
from lavit_deploy.timing import alternate, median_ms

Progress = Callable[[str], None]
"""Told the name of each step as it begins."""

_DEPARTURE_PICTURES = 4
_TIMING_RUNS = 20
_TIMING_SECONDS = 10.0  # for each batch size, over all artifacts


@dataclass(frozen=True)
class Job:
    """One export.

    Attributes:
        checkpoint: what to export.
        plan: what to build.
        pictures: what parity is measured on.
        batch: batch sizes of the artifacts.
        name: the model's name.
    """

    checkpoint: Checkpoint
    plan: Plan
    pictures: Pictures
    batch: BatchRange
    name: str


def step_names(plan: Plan) -> list[str]:
    """Every step that `export_bundle` will report, in order."""
    names = ["reference logits"]
    for precision in plan.precisions:
        names += [f"build onnx-{precision}", f"parity of onnx-{precision}"]
    return [*names, "latency"]


def export_bundle(job: Job, out: Path, *, force: bool, progress: Progress) -> Bundle:
    """Build, check and time every artifact of the plan, and write the bundle.

    A failed parity check removes nothing: the artifact stays in the bundle, marked as failed, and
    the service refuses it.

    Args:
        job: what to do.
        out: the bundle's folder; it appears whole or not at all.
        force: replace an existing bundle.
        progress: told each step of `step_names`.

    Raises:
        CheckpointError: the checkpoint does not fit its model.
        ExportError: a graph could not be built.
        UsageError: `out` exists and `force` is not given, or is something else than a bundle.
    """
    check_destination(out, force=force)
    model = job.checkpoint.build()
    progress("reference logits")
    reference = reference_logits(model, job.pictures.images, job.checkpoint.preprocess)
    with atomic_directory(out) as folder:
        workbench = _Workbench(job, model, reference, folder, progress)
        artifacts = [workbench.build(precision) for precision in job.plan.precisions]
        progress("latency")
        artifacts = _timed(artifacts, job, folder)
        Bundle.write_manifest(folder, _manifest(job, artifacts))
    return Bundle.open(out)


def check_destination(out: Path, *, force: bool) -> None:
    """Refuse to write over anything but an old bundle, and that only with `force`.

    Raises:
        UsageError: `out` is in the way.
    """
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (out / "manifest.json").is_file()):
        raise UsageError(f"{out} exists and is not a bundle: choose another --out")
    if any(out.iterdir()) and not force:
        raise UsageError(f"{out} exists: --force replaces it, --out writes elsewhere")


@dataclass(frozen=True)
class _Workbench:
    """What every artifact of one export is built with and compared to."""

    job: Job
    model: LaViT
    reference: Logits
    folder: Path
    progress: Progress

    def build(self, precision: Precision) -> Artifact:
        """Build one ONNX artifact, read its precision back and compare it with the reference."""
        name, batch = f"onnx-{precision}", self.job.batch
        file = self.folder / f"model.{precision}.onnx"
        self.progress(f"build {name}")
        start = time.perf_counter()
        model = to_precision(self.model, precision)
        graph = write_onnx(self.job.checkpoint, model, file, batch=batch, precision=precision)
        seconds = time.perf_counter() - start
        self.progress(f"parity of {name}")
        devices = _devices(precision)
        device = self.job.plan.device if self.job.plan.device in devices else "cpu"
        found = precision_found(graph)
        parity = self._parity(precision, file, graph, device)
        if found != precision:
            reason = f"asked for {precision}, the graph computes in {found}"
            parity = parity.model_copy(update={"passed": False, "reason": reason})
        return Artifact(
            name=name,
            file=file.name,
            sha256=sha256_of(file),
            size_bytes=file.stat().st_size,
            runtime="onnxruntime",
            runtime_version=import_onnxruntime().__version__,
            format_version=f"opset {OPSET}",
            precision_requested=precision,
            precision_found=found,
            compute_types=dict(compute_types(graph)),
            batch=batch,
            devices=devices,
            device=device,
            build_seconds=round(seconds, 2),
            parity=parity,
        )

    def _parity(
        self, precision: Precision, file: Path, graph: onnx.ModelProto, device: Device
    ) -> Parity:
        pictures = self.job.pictures
        if device in _devices(precision):
            parity = compare(
                self._run(file, device), self.reference, precision, source=pictures.source
            )
        else:
            graph = widen(graph)
            with tempfile.TemporaryDirectory() as scratch:
                widened = Path(scratch) / "widened.onnx"
                onnx.save(graph, widened)
                logits = self._run(widened, device)
            method = f"computed in float32, every result rounded to {precision}"
            parity = compare(
                logits, self.reference, precision, source=pictures.source, method=method
            )
        if parity.passed:
            return parity
        layer = first_departure(
            graph,
            self.model,
            pictures.images[:_DEPARTURE_PICTURES],
            self.job.checkpoint.preprocess,
            tolerance=TOLERANCES[precision].relative,
        )
        return parity.model_copy(update={"first_departure": layer})

    def _run(self, file: Path, device: Device) -> Logits:
        batch = self.job.batch
        sizes = (1, batch.optimum, min(3, batch.maximum))
        with OnnxRuntime(file, max_batch=batch.maximum, device=device) as runtime:
            return run_artifact(runtime, self.job.pictures.images, sizes)


def _devices(precision: Precision) -> tuple[Device, ...]:
    """Devices for which ONNX Runtime has kernels of a precision."""
    return ("cuda",) if precision == "bf16" else ("cpu", "cuda")


def _timed(artifacts: list[Artifact], job: Job, folder: Path) -> list[Artifact]:
    """Time every artifact that runs here and passed, in turn, at the smallest and best batch."""
    device = job.plan.device
    chosen = [item for item in artifacts if item.parity.passed and device in item.devices]
    timings: dict[str, list[Timing]] = {item.name: [] for item in artifacts}
    runtimes = {
        item.name: OnnxRuntime(folder / item.file, max_batch=job.batch.maximum, device=device)
        for item in chosen
    }
    try:
        for size in sorted({job.batch.minimum, job.batch.optimum}):
            images = job.pictures.images.repeat(-(-size // len(job.pictures.images)), axis=0)[:size]
            calls = {
                name: lambda runtime=runtime: runtime.infer(images)  # noqa: B023 - called in this turn of the loop
                for name, runtime in runtimes.items()
            }
            measured = alternate(calls, runs=_TIMING_RUNS, budget_seconds=_TIMING_SECONDS)
            for name, seconds in measured.items():
                milliseconds = median_ms(seconds)
                timings[name].append(
                    Timing(
                        batch=size,
                        median_ms=milliseconds,
                        images_per_second=size * 1e3 / milliseconds,
                        runs=len(seconds),
                    )
                )
    finally:
        for runtime in runtimes.values():
            runtime.close()
    return [item.model_copy(update={"timings": tuple(timings[item.name])}) for item in artifacts]


def _manifest(job: Job, artifacts: list[Artifact]) -> Manifest:
    checkpoint = job.checkpoint
    return Manifest(
        project_version=__version__,
        name=job.name,
        architecture=checkpoint.architecture,
        config=checkpoint.config,
        classes=checkpoint.classes,
        preprocess=checkpoint.preprocess,
        checkpoint=CheckpointRecord(
            file=checkpoint.file.name, sha256=checkpoint.sha256, weights=checkpoint.weights
        ),
        artifacts=tuple(artifacts),
        environment=Environment.here(),
        command=tuple(command_line()),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
