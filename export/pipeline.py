"""The whole way from a checkpoint to a bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from export.parity import reference_logits
from export.pictures import Pictures
from export.plan import Plan
from export.workbench import Workbench
from lavit_deploy import __version__
from lavit_deploy.bundle import Bundle
from lavit_deploy.checkpoint import Checkpoint
from lavit_deploy.environment import Environment, command_line
from lavit_deploy.errors import UsageError
from lavit_deploy.files import atomic_directory
from lavit_deploy.folding.fold import Folding
from lavit_deploy.folding.fold import fold as fold_model
from lavit_deploy.manifest import Artifact, BatchRange, Manifest, Timing
from lavit_deploy.manifest import Checkpoint as CheckpointRecord
from lavit_deploy.model import LaViT
from lavit_deploy.runtimes.onnxruntime import OnnxRuntime
from lavit_deploy.timing import alternate, median_ms

Progress = Callable[[str], None]
"""Told the name of each step as it begins."""

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
        fold: apply the exact rewrites of `lavit_deploy.folding`; else export the literal graph.
    """

    checkpoint: Checkpoint
    plan: Plan
    pictures: Pictures
    batch: BatchRange
    name: str
    fold: bool = True

    @cached_property
    def model(self) -> LaViT:
        """The float32 PyTorch model that everything is compared with.

        Raises:
            CheckpointError: the checkpoint does not fit its model.
        """
        return self.checkpoint.build()

    @cached_property
    def folding(self) -> Folding | None:
        """The folded model that artifacts are built from; None if `fold` is off.

        Raises:
            ExportError: a rewrite did not keep its contract.
        """
        return fold_model(self.model, self.checkpoint.preprocess) if self.fold else None


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
    folding = job.folding
    progress("reference logits")
    reference = reference_logits(job.model, job.pictures.images, job.checkpoint.preprocess)
    with atomic_directory(out) as folder:
        bench = Workbench(
            job.checkpoint,
            job.model,
            job.pictures,
            reference,
            job.batch,
            job.plan.device,
            folding.model if folding else None,
        )
        artifacts = []
        for precision in job.plan.precisions:
            progress(f"build onnx-{precision}")
            built = bench.build(precision, folder)
            progress(f"parity of onnx-{precision}")
            artifacts.append(bench.judge(built))
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


def _timed(artifacts: list[Artifact], job: Job, folder: Path) -> list[Artifact]:
    """Time every artifact that runs here and passed, in turn, at the smallest and best batch."""
    device = job.plan.device
    chosen = [item for item in artifacts if item.passed and device in item.devices]
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
