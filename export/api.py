"""From a checkpoint to a bundle in one call: what `lavit-export` does, for Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.checkpoint import Checkpoint, load_checkpoint
from lavit_deploy.common.errors import UsageError
from lavit_deploy.export.confidence import HeldOut
from lavit_deploy.export.judging.parity_pictures import folder_pictures, sample_pictures
from lavit_deploy.export.pipeline import ExportJob, check_destination, export_bundle
from lavit_deploy.export.plan import make_plan
from lavit_deploy.export.quantization.calibration import open_held_out, open_split
from lavit_deploy.export.quantization.options import Quantize
from lavit_deploy.export.request import (
    BATCH,
    MAX_DROP,
    MAX_REFUSED,
    TARGETS,
    EngineOptions,
    NarrowMlp,
    Request,
    TargetName,
)
from lavit_deploy.export.targets.target import Progress
from lavit_deploy.manifest import BatchRange, Device, Precision


def export_checkpoint(
    checkpoint: Path | str,
    out: Path | str,
    *,
    targets: TargetName | Collection[TargetName] = "auto",
    half: Precision | None = None,
    mobile: bool = False,
    calibration: str | None = None,
    evaluation: str | None = None,
    max_drop: float = MAX_DROP,
    max_refused: float = MAX_REFUSED,
    batch: tuple[int, int, int] = BATCH,
    arch: str | None = None,
    use_ema: bool = False,
    weights: str | None = None,
    image_size: tuple[int, int] | None = None,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    parity_images: Path | str | None = None,
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
        checkpoint: the file, or a folder with `config.json` and weights.
        out: the bundle's folder; it appears whole or not at all.
        targets: formats by name; "auto" stands for all that can be built and run here.
        half: "fp16" or "bf16" besides float32.
        mobile: also every mobile format whose packages are there.
        calibration: int8 too, calibrated on this folder of pictures, or on "digits".
        evaluation: held-out pictures, the same way: int8 is judged on them (default: on a part of
            `calibration`), and where they have labels, confidence is fitted on them.
        max_drop: points of accuracy (without labels: of agreement) that int8 may lose.
        max_refused: percent of labelled held-out pictures that may be answered as unknown.
        batch: smallest, optimised and largest batch.
        arch: preset of a bare state_dict; default: found by its shapes.
        use_ema: take the averaged weights.
        weights: dotted key of the weights, where several fit.
        image_size: height and width of the model's input, where shapes do not tell.
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
    asked = _targets(targets)
    if half not in {None, "fp16", "bf16"}:
        raise UsageError(f"half is fp16 or bf16, given {half!r}")
    check_destination(Path(out), force=force)
    loaded = load_checkpoint(
        Path(checkpoint), arch=arch, use_ema=use_ema, weights=weights, image_size=image_size
    )
    job = prepare(
        loaded if classes is None else with_classes(loaded, classes),
        request=Request(
            asked,
            half,
            engine=engine or EngineOptions(),
            mlp=mlp,
            mobile=mobile,
        ),
        calibration=calibration,
        evaluation=evaluation,
        max_drop=max_drop,
        max_refused=max_refused,
        batch=batch,
        name=name,
        parity_images=Path(parity_images) if parity_images else None,
        device=device,
        fold=fold,
    )
    return export_bundle(job, Path(out), force=force, progress=progress)


def with_classes(checkpoint: Checkpoint, classes: Sequence[str]) -> Checkpoint:
    """A checkpoint with other names for its classes.

    Raises:
        UsageError: there are not as many names as classes.
    """
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
    max_refused: float = MAX_REFUSED,
    batch: tuple[int, int, int] = BATCH,
    name: str | None = None,
    parity_images: Path | None = None,
    device: Device | Literal["auto"] = "auto",
    fold: bool = True,
) -> ExportJob:
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
    return ExportJob(
        checkpoint=checkpoint,
        plan=make_plan(dataclasses.replace(request, quantize=quantize), device),
        pictures=pictures,
        batch=_batch_range(*batch),
        name=name or checkpoint.file.stem,
        fold=fold,
        held_out=_held_out(checkpoint, evaluation, quantize, max_refused),
    )


def _targets(names: TargetName | Collection[TargetName]) -> frozenset[TargetName]:
    """The names that are given, each of them known."""
    given = [names] if isinstance(names, str) else names  # else a name would be its letters
    if unknown := sorted(set(given) - set(TARGETS)):
        raise UsageError(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    return frozenset(given)


def _quantize(
    checkpoint: Checkpoint, calibration: str | None, evaluation: str | None, max_drop: float
) -> Quantize | None:
    if calibration is None:
        return None
    if not 0.0 <= max_drop <= 100.0:
        raise UsageError(f"--max-drop {max_drop}: expected points, 0 to 100")
    split = open_split(calibration, evaluation, checkpoint.preprocess, checkpoint.classes)
    return Quantize(split, max_drop)


def _held_out(
    checkpoint: Checkpoint, evaluation: str | None, quantize: Quantize | None, max_refused: float
) -> HeldOut | None:
    """What confidence is fitted on; None where no pictures were named for it."""
    if not 0.0 <= max_refused < 100.0:
        raise UsageError(f"--max-refused {max_refused}: expected percent, 0 to less than 100")
    if evaluation is None:
        return None
    if quantize is not None:
        pictures = quantize.split.held_out
    else:
        pictures = open_held_out(evaluation, checkpoint.preprocess, checkpoint.classes)
    return HeldOut(pictures, max_refused / 100.0)


def _batch_range(minimum: int, optimum: int, maximum: int) -> BatchRange:
    if not 1 <= minimum <= optimum <= maximum:
        raise UsageError(f"--batch {minimum} {optimum} {maximum}: expected 1 <= MIN <= OPT <= MAX")
    return BatchRange(minimum=minimum, optimum=optimum, maximum=maximum)
