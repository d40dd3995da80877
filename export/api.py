"""From a checkpoint to a bundle in one call: what `lavit-export` does, for Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.checkpoint import Checkpoint, load_checkpoint
from lavit_deploy.common.errors import UsageError
from lavit_deploy.export.judging.parity_pictures import folder_pictures, sample_pictures
from lavit_deploy.export.pipeline import Job, check_destination, export_bundle
from lavit_deploy.export.plan import make_plan
from lavit_deploy.export.quantization.calibration import open_split
from lavit_deploy.export.quantization.options import Quantize
from lavit_deploy.export.request import (
    BATCH,
    MAX_DROP,
    EngineOptions,
    NarrowMlp,
    Request,
    TargetName,
)
from lavit_deploy.export.targets.target import Progress
from lavit_deploy.manifest import BatchRange, Device, Precision

ALL: tuple[TargetName, ...] = ("auto",)
"""All that can be built and run here."""


def export_checkpoint(
    checkpoint: Path | str,
    out: Path | str,
    *,
    targets: Collection[TargetName] = ALL,
    half: Precision | None = None,
    mobile: bool = False,
    calibration: str | None = None,
    evaluation: str | None = None,
    max_drop: float = MAX_DROP,
    batch: tuple[int, int, int] = BATCH,
    arch: str | None = None,
    use_ema: bool = False,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    parity_images: Path | None = None,
    device: Device | Literal["auto"] = "auto",
    fold: bool = True,
    engine: EngineOptions | None = None,
    mlp: NarrowMlp = "auto",
    force: bool = False,
    progress: Progress = lambda _: None,
) -> Bundle:
    """Build, check and time a bundle of a checkpoint.

    An artifact that fails parity stays in the bundle, marked, and is never served: look at
    `bundle.manifest.artifacts` and `not_built`.

    Args:
        checkpoint: the file.
        out: the bundle's folder; it appears whole or not at all.
        targets: formats by name; "auto" stands for all that can be built and run here.
        half: "fp16" or "bf16" besides float32.
        mobile: also every mobile format whose packages are there.
        calibration: int8 too, calibrated on this folder of pictures, or on "digits".
        evaluation: the same for the pictures that int8 is judged on; default: a part of those.
        max_drop: points of accuracy (without labels: of agreement) that int8 may lose.
        batch: smallest, optimised and largest batch.
        arch: preset of a bare state_dict; default: found by its shapes.
        use_ema: take the averaged weights.
        classes: names in the order of the logits; default: the checkpoint's.
        name: the model's name; default: that of the file.
        parity_images: folder of pictures to compare on; default: scikit-image's samples.
        device: where parity and latency are measured; "auto": CUDA if it can be used.
        fold: apply the exact rewrites; else the graph has the operators of the paper.
        engine: how TensorRT's engines are built.
        mlp: how AOTInductor's packages compute narrow MLPs.
        force: replace a bundle at `out`.
        progress: told the name of each step as it begins.

    Raises:
        CheckpointError: the file cannot be read, or does not fit its model.
        UsageError: options that contradict each other, or `out` is in the way.
        MissingDependencyError: the package of a target that was named is not installed.
        ExportError: a graph could not be built.
    """
    check_destination(Path(out), force=force)
    job = prepare(
        load(Path(checkpoint), arch=arch, use_ema=use_ema, classes=classes),
        request=Request(
            frozenset(targets),
            half,
            engine=engine or EngineOptions(),
            mlp=mlp,
            mobile=mobile,
        ),
        calibration=calibration,
        evaluation=evaluation,
        max_drop=max_drop,
        batch=batch,
        name=name,
        parity_images=parity_images,
        device=device,
        fold=fold,
    )
    return export_bundle(job, Path(out), force=force, progress=progress)


def load(
    file: Path, *, arch: str | None, use_ema: bool, classes: Sequence[str] | None
) -> Checkpoint:
    """Read a checkpoint, with other names for its classes where they are given.

    Raises:
        CheckpointError: it cannot be read, or does not fit its model.
        UsageError: as many names as classes are needed.
    """
    checkpoint = load_checkpoint(file, arch=arch, use_ema=use_ema)
    if classes is None:
        return checkpoint
    count = checkpoint.config.num_classes
    if len(classes) != count:
        raise UsageError(f"{len(classes)} names of classes are given, the model has {count}")
    return dataclasses.replace(checkpoint, classes=tuple(classes))


def prepare(
    checkpoint: Checkpoint,
    *,
    request: Request,
    calibration: str | None = None,
    evaluation: str | None = None,
    max_drop: float = MAX_DROP,
    batch: tuple[int, int, int] = BATCH,
    name: str | None = None,
    parity_images: Path | None = None,
    device: Device | Literal["auto"] = "auto",
    fold: bool = True,
) -> Job:
    """Decide all that an export will do, and build nothing yet; arguments as above.

    Raises:
        UsageError: options that contradict each other.
        MissingDependencyError: the package of a target that was named is not installed.
    """
    if request.mlp == "fused" and not fold:
        raise UsageError("--mlp fused is a form of the folded model: leave out --no-fold")
    if parity_images:
        pictures = folder_pictures(parity_images, checkpoint.preprocess)
    else:
        pictures = sample_pictures(checkpoint.preprocess)
    quantize = _quantize(checkpoint, calibration, evaluation, max_drop)
    return Job(
        checkpoint=checkpoint,
        plan=make_plan(dataclasses.replace(request, quantize=quantize), device),
        pictures=pictures,
        batch=_batch_range(*batch),
        name=name or checkpoint.file.stem,
        fold=fold,
    )


def _quantize(
    checkpoint: Checkpoint, calibration: str | None, evaluation: str | None, max_drop: float
) -> Quantize | None:
    if calibration is None:
        if evaluation is not None:
            raise UsageError("pictures to judge int8 on are given, and none to calibrate it on")
        return None
    if not 0.0 <= max_drop <= 100.0:
        raise UsageError(f"--max-drop {max_drop}: expected points, 0 to 100")
    split = open_split(calibration, evaluation, checkpoint.preprocess, checkpoint.classes)
    return Quantize(split, max_drop)


def _batch_range(minimum: int, optimum: int, maximum: int) -> BatchRange:
    if not 1 <= minimum <= optimum <= maximum:
        raise UsageError(f"--batch {minimum} {optimum} {maximum}: expected 1 <= MIN <= OPT <= MAX")
    return BatchRange(minimum=minimum, optimum=optimum, maximum=maximum)
