"""The whole way from a checkpoint to a bundle."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from torch import nn

from lavit_deploy import __version__
from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.bundle.measurement import measure, save
from lavit_deploy.checkpoint import Checkpoint
from lavit_deploy.common.atomic_files import atomic_directory
from lavit_deploy.common.environment import Environment, command_line
from lavit_deploy.common.errors import ExportError, UsageError
from lavit_deploy.export.confidence import HeldOut, draw_into
from lavit_deploy.export.judging.context import BuildContext
from lavit_deploy.export.judging.parity_pictures import ParityPictures
from lavit_deploy.export.judging.reference import reference_logits
from lavit_deploy.export.plan import BuildPlan
from lavit_deploy.export.request import TRITON
from lavit_deploy.export.targets.target import NotBuilt, Progress
from lavit_deploy.export.triton_server.repository import check_names, write_repository
from lavit_deploy.folding.fold import Folding
from lavit_deploy.manifest import Artifact, BatchRange, CheckpointRecord, Confidence, Manifest
from lavit_deploy.runtimes.specs import distributions
from lavit_deploy.tasks.confidence import NoConfidenceError

_CONFIDENCE = "confidence"
"""The step that fits it."""


@dataclass(frozen=True)
class ExportJob:
    """One export.

    Attributes:
        checkpoint: what to export.
        plan: what to build.
        pictures: what parity is measured on.
        batch: batch sizes of the artifacts.
        name: the model's name.
        fold: apply the exact rewrites of `lavit_deploy.folding`; else export the literal graph.
        held_out: what confidence is fitted on; None: it is not.
    """

    checkpoint: Checkpoint
    plan: BuildPlan
    pictures: ParityPictures
    batch: BatchRange
    name: str
    fold: bool = True
    held_out: HeldOut | None = None

    @cached_property
    def model(self) -> nn.Module:
        """The float32 PyTorch model that everything is compared with.

        Raises:
            CheckpointError: the checkpoint does not fit its model.
        """
        return self.checkpoint.build()

    @cached_property
    def folding(self) -> Folding[nn.Module] | None:
        """The folded model that artifacts are built from; None if `fold` is off, or none is known.

        Raises:
            ExportError: a rewrite did not keep its contract.
        """
        if not self.fold:
            return None
        return self.checkpoint.family.fold(self.model, self.checkpoint.preprocess)


def step_names(job: ExportJob) -> list[str]:
    """Every step that `export_bundle` will report, in order."""
    fitting = [_CONFIDENCE] if job.held_out else []
    labels = [label for target in job.plan.targets for label in target.labels]
    last = [TRITON] if job.plan.triton_repository else []
    return ["reference logits", *fitting, *labels, "latency and memory", *last]


def export_bundle(job: ExportJob, out: Path, *, force: bool, progress: Progress) -> Bundle:
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
        UsageError: `out` exists and `force` is not given, or is something else than a bundle; or a
            name that a Triton repository cannot hold.
    """
    check_destination(out, force=force)
    if job.plan.triton_repository:
        check_names(job.name, job.checkpoint.classes)
    folding = job.folding
    progress("reference logits")
    reference = reference_logits(job.model, job.pictures.images, job.checkpoint.preprocess)
    confidence = _confidence(job, progress)
    with atomic_directory(out) as folder:
        context = BuildContext(
            job.checkpoint,
            job.model,
            job.pictures,
            reference,
            job.batch,
            job.plan.device,
            folding.model if folding else None,
        )
        made = [
            item for target in job.plan.targets for item in target.build(context, folder, progress)
        ]
        progress("latency and memory")
        Bundle.write_manifest(folder, _manifest(job, made, confidence))
        if isinstance(confidence, Confidence):
            draw_into(folder, confidence)
        save(measure(Bundle.open(folder), device=job.plan.device))
        if job.plan.triton_repository:
            progress(TRITON)
            _add_triton_repository(Bundle.open(folder))
    return Bundle.open(out)


def _add_triton_repository(bundle: Bundle) -> None:
    """Write it, or, where Triton can serve nothing of the bundle, note that it is missing."""
    try:
        write_repository(bundle)
    except ExportError as error:
        missing = {**bundle.manifest.not_built, TRITON: str(error)}
        save(Bundle(bundle.path, bundle.manifest.model_copy(update={"not_built": missing})))


def check_destination(out: Path, *, force: bool) -> None:
    """Refuse to write over anything but an old bundle, and that only with `force`.

    Raises:
        UsageError: `out` is in the way or cannot be moved, or nothing can be written beside it.
    """
    nearest = next((folder for folder in out.absolute().parents if folder.exists()), out)
    try:
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written: {nearest}: {error.strerror}") from None
    if not out.exists():
        return
    if os.path.ismount(out) or Path.cwd().is_relative_to(out.resolve()):
        raise UsageError(
            f"--out {out} cannot be replaced: it is a mount point or the folder you are in; "
            "name a new folder inside it"
        )
    if not out.is_dir() or (any(out.iterdir()) and not (out / "manifest.json").is_file()):
        raise UsageError(f"{out} exists and is not a bundle: choose another --out")
    if any(out.iterdir()) and not force:
        raise UsageError(f"{out} exists: --force replaces it, --out writes elsewhere")


def _confidence(job: ExportJob, progress: Progress) -> Confidence | str | None:
    """What was fitted, why nothing was, or None where no pictures are given."""
    if job.held_out is None:
        return None
    progress(_CONFIDENCE)
    try:
        return job.held_out.confidence(job.model, job.checkpoint.preprocess)
    except NoConfidenceError as error:
        return str(error)


def _manifest(
    job: ExportJob, made: list[Artifact | NotBuilt], confidence: Confidence | str | None
) -> Manifest:
    checkpoint = job.checkpoint
    return Manifest(
        project_version=__version__,
        name=job.name,
        architecture=checkpoint.architecture,
        family=checkpoint.family.name,
        task=checkpoint.family.task,
        config=checkpoint.config,
        classes=checkpoint.classes,
        preprocess=checkpoint.preprocess,
        checkpoint=CheckpointRecord(
            file=checkpoint.file.name, sha256=checkpoint.sha256, weights=checkpoint.weights
        ),
        artifacts=tuple(item for item in made if isinstance(item, Artifact)),
        not_built={item.name: item.reason for item in made if isinstance(item, NotBuilt)},
        confidence=confidence if isinstance(confidence, Confidence) else None,
        no_confidence=confidence if isinstance(confidence, str) else "",
        environment=Environment.here(distributions()),
        command=tuple(command_line()),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
