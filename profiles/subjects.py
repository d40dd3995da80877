"""From a name on the command line to a model that can be counted and timed."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lavit_deploy.bundle import Bundle
from lavit_deploy.choice import Wish, choose
from lavit_deploy.config import PRESETS, LaViTConfig, preset
from lavit_deploy.counting import PARTS, parameter_count
from lavit_deploy.errors import MissingDependencyError, UsageError
from lavit_deploy.manifest import Artifact, Device
from lavit_deploy.runtimes.opening import open_artifact
from profiles.baselines import (
    BASELINES,
    PAPER,
    Architecture,
    Baseline,
    Family,
    Published,
    closed_form,
)
from profiles.closed_form import StageCounts, total
from profiles.report import Counts, ModelReport, PublishedCounts, UncountedOperator

if TYPE_CHECKING:
    from torch import nn

    from profiles.runners import Precision, TorchRuntime
    from profiles.timing import Runner
    from profiles.transformers_models import Attention

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
"""Endings by which a missing file is known to have been meant as a checkpoint."""

_EXTRA = frozenset({"torch", "transformers", "fvcore", "safetensors", "rich"})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How models are built and run.

    Attributes:
        device: where to compute.
        threads: threads within an operator on the CPU.
        precision: of PyTorch models; an artifact has its own.
        runtime: of PyTorch models.
        attention: implementation in the baselines; LaViT needs its scores, so it has no choice.
        image_size: side in pixels for presets and baselines; None for each one's own.
    """

    device: Device = "cpu"
    threads: int = 1
    precision: Precision = "fp32"
    runtime: TorchRuntime = "torch"
    attention: Attention = "sdpa"
    image_size: int | None = None


class Subject(ABC):
    """A model to profile.

    Attributes:
        label: its name in reports.
    """

    label: str

    @abstractmethod
    def measure(self) -> ModelReport:
        """Count parameters and multiply-adds."""

    @abstractmethod
    def open(self) -> Runner:
        """Make it ready to be timed."""


@contextmanager
def profile_extra(purpose: str) -> Iterator[None]:
    """Turn a missing package of the `profile` extra into a message.

    Raises:
        MissingDependencyError: a package that the block imports is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRA:
            raise
        raise MissingDependencyError(package, extra="profile", purpose=purpose) from None


def resolve(text: str, settings: Settings) -> Subject:
    """Find and build the model that `text` names.

    Args:
        text: a preset, a baseline, a checkpoint's file, a bundle's folder, or `FOLDER:ARTIFACT`.
        settings: how to build it.

    Raises:
        UsageError: it names nothing; lists what there is. Or `settings` do not suit it.
        CheckpointError: a checkpoint that cannot be used.
        BundleError: a bundle or artifact that cannot be used.
        MissingDependencyError: a package that it needs is not installed.
    """
    if text in PRESETS:
        return _from_preset(text, settings)
    if text in BASELINES:
        return _from_baseline(BASELINES[text].at(settings.image_size), settings)
    path = Path(text)
    folder, _, artifact = text.rpartition(":")
    if path.is_dir():
        return _from_bundle(text, Bundle.open(path), "auto", settings)
    if path.is_file() or path.suffix in CHECKPOINT_SUFFIXES:
        return _from_checkpoint(path, settings)
    if folder and Path(folder).is_dir():
        return _from_bundle(text, Bundle.open(Path(folder)), artifact, settings)
    raise UsageError(
        f"no model {text!r}: it is neither a file nor a folder. "
        f"Presets: {', '.join(PRESETS)}. Baselines: {', '.join(BASELINES)}. "
        "Also a checkpoint (.pth, .safetensors), a bundle's folder, or FOLDER:ARTIFACT"
    )


def _from_preset(name: str, settings: Settings) -> Subject:
    with profile_extra("build PyTorch models"):
        from lavit_deploy.model import LaViT
    size = {} if settings.image_size is None else {"image_size": settings.image_size}
    config = preset(name, **size)
    published = PAPER.get(name) if config == preset(name) else None
    notes = () if name in {"lavit_micro", "lavit_s"} else (_READING,)
    return _TorchSubject(
        label=name,
        kind="preset",
        family="lavit",
        config=config,
        model=LaViT(config),
        settings=settings,
        attention="eager",
        published=published,
        notes=notes + ((_PAPER_FLOPS,) if published else ()),
    )


_READING = (
    "depths and the layer where less-attention begins are this project's reading: "
    "the paper's table of variants is legible for LaViT-S only"
)
_PAPER_FLOPS = "no reading of the paper gives the FLOPs that it prints for LaViT"


def _from_checkpoint(path: Path, settings: Settings) -> Subject:
    with profile_extra("read checkpoints"):
        from lavit_deploy.checkpoint import load_checkpoint
    checkpoint = load_checkpoint(path)
    _refuse_resizing(str(path), checkpoint.config.image_size, settings)
    return _TorchSubject(
        label=str(path),
        kind="checkpoint",
        family="lavit",
        config=checkpoint.config,
        model=checkpoint.build(),
        settings=settings,
        attention="eager",
        notes=checkpoint.inferred,
    )


def _from_baseline(baseline: Baseline, settings: Settings) -> Subject:
    with profile_extra("build the baselines PVT, PVT v2 and Swin"):
        from profiles.transformers_models import build
    return _TorchSubject(
        label=baseline.name,
        kind="baseline",
        family=baseline.family,
        config=baseline.config,
        model=build(baseline, settings.attention),
        settings=settings,
        attention=settings.attention,
        published=baseline.published if baseline == BASELINES[baseline.name] else None,
        notes=("implementation of transformers, random weights",),
    )


def _from_bundle(label: str, bundle: Bundle, name: str, settings: Settings) -> Subject:
    # One that failed parity can be timed by its name, to see what its speed would have been.
    auto = name == "auto"
    artifact = (
        choose(bundle, Wish(device=settings.device)).artifact if auto else bundle.artifact(name)
    )
    _refuse_resizing(label, bundle.manifest.config.image_size, settings)
    return _ArtifactSubject(label, bundle, artifact, settings)


def _refuse_resizing(label: str, image_size: tuple[int, int], settings: Settings) -> None:
    if settings.image_size is not None and image_size != (settings.image_size,) * 2:
        raise UsageError(
            f"{label} takes {image_size[0]} x {image_size[1]} pixels, its weights are made for "
            f"that; --image-size {settings.image_size} can change presets and baselines only"
        )


@dataclass(frozen=True, kw_only=True)
class _TorchSubject(Subject):
    """A PyTorch model with random or trained weights."""

    label: str
    kind: Literal["preset", "checkpoint", "baseline"]
    family: Family
    config: Architecture
    model: nn.Module
    settings: Settings
    attention: str
    published: Published | None = None
    notes: tuple[str, ...] = ()

    def measure(self) -> ModelReport:
        with profile_extra("count multiply-adds"):
            import torch

            from profiles.tracing import parameters_by_part, trace
        height, width = self.config.image_size
        traced = trace(self.model, torch.zeros(1, 3, height, width), self.family)
        parameters = parameters_by_part(self.model, self.family)
        return ModelReport(
            label=self.label,
            kind=self.kind,
            runtime=self.settings.runtime,
            precision=self.settings.precision,
            attention=self.attention,
            image_size=(height, width),
            parameters=parameters.total(),
            parameters_by_part=_in_order(parameters),
            counts=Counts(
                total=traced.total,
                method="traced",
                closed_form=total(closed_form(self.config)),
                by_part=_by_part(traced.by_stage),
                by_stage=_by_stage(traced.by_stage),
                by_operator=dict(traced.by_operator.most_common()),
                uncounted=tuple(
                    UncountedOperator(**dataclasses.asdict(one)) for one in traced.uncounted
                ),
            ),
            published=(
                PublishedCounts(**dataclasses.asdict(self.published)) if self.published else None
            ),
            notes=self.notes,
        )

    def open(self) -> Runner:
        from profiles.runners import TorchRunner

        return TorchRunner(
            self.label,
            self.model,
            self.config.image_size,
            device=self.settings.device,
            precision=self.settings.precision,
            runtime=self.settings.runtime,
        )


@dataclass(frozen=True)
class _ArtifactSubject(Subject):
    """An artifact of a bundle in its runtime."""

    label: str
    bundle: Bundle
    artifact: Artifact
    settings: Settings

    def measure(self) -> ModelReport:
        config: LaViTConfig = self.bundle.manifest.config
        parameters, counts = parameter_count(config), closed_form(config)
        return ModelReport(
            label=self.label,
            kind="artifact",
            runtime=f"{self.artifact.runtime} ({self.artifact.name})",
            precision=self.artifact.precision_found,
            attention="graph",
            image_size=config.image_size,
            parameters=parameters.total(),
            parameters_by_part=_in_order(parameters),
            counts=Counts(
                total=total(counts),
                method="closed form",
                closed_form=total(counts),
                by_part=_by_part(counts),
                by_stage=_by_stage(counts),
            ),
            notes=(
                "counts are the architecture's; the exported graph may hold fewer operations",
                "uint8 input: normalisation is part of a call",
                *(
                    ()
                    if self.artifact.parity.passed
                    else (f"this artifact failed parity: {self.artifact.parity.reason}",)
                ),
            ),
        )

    def open(self) -> Runner:
        from profiles.runners import ArtifactRunner

        runtime = open_artifact(
            self.bundle, self.artifact, device=self.settings.device, threads=self.settings.threads
        )
        return ArtifactRunner(self.label, runtime)


def _in_order(counts: Counter[str]) -> dict[str, int]:
    """Parts in the order of the network, without the empty ones."""
    order = [*PARTS, *sorted(set(counts) - set(PARTS))]
    return {part: counts[part] for part in order if counts[part]}


def _by_part(counts: StageCounts) -> dict[str, int]:
    return _in_order(sum(counts.values(), Counter()))


def _by_stage(counts: StageCounts) -> dict[str, dict[str, int]]:
    return {stage: _in_order(counts[stage]) for stage in sorted(counts, key=_stage_order)}


def _stage_order(stage: str) -> tuple[bool, str]:
    return not stage.startswith("stage"), stage
