"""From a name on the command line to a model that can be counted and timed."""

from __future__ import annotations

import dataclasses
import difflib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.bundle.open import open_artifact
from lavit_deploy.bundle.selection import Wish, choose
from lavit_deploy.common.errors import ConfigError, MissingDependencyError, UsageError
from lavit_deploy.manifest import Artifact, Device
from lavit_deploy.model.config import PRESETS, LaViTConfig, preset
from lavit_deploy.model.counts import parameter_count
from lavit_deploy.profiles.baselines import (
    BASELINES,
    PAPER,
    Architecture,
    Baseline,
    Family,
    Published,
    closed_form,
)
from lavit_deploy.profiles.baselines.base import Attention
from lavit_deploy.profiles.counting.closed_form import StageCounts, by_part, lavit_counts, total
from lavit_deploy.profiles.counting.parts import PARTS, Place
from lavit_deploy.profiles.counting.scaling import grow
from lavit_deploy.profiles.report.records import Cell, Growth, ModuleCost, OperatorCost, TimeSplit
from lavit_deploy.profiles.report.schema import (
    Counts,
    ModelReport,
    PublishedCounts,
    UncountedOperator,
)
from lavit_deploy.profiles.timing.timing import TorchRuntime

if TYPE_CHECKING:
    from torch import nn

    from lavit_deploy.profiles.counting.trace import Traced
    from lavit_deploy.profiles.timing.runners import Precision
    from lavit_deploy.profiles.timing.timing import Runner

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
"""Endings by which a missing file is known to have been meant as a checkpoint."""

_RUNTIMES: tuple[TorchRuntime, ...] = get_args(TorchRuntime)
_EXTRA = frozenset({"torch", "transformers", "fvcore", "safetensors", "rich", "jinja2"})


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

    @abstractmethod
    def split(self, batch: int, calls: int) -> TimeSplit | None:
        """Measure where the time of a call goes.

        Args:
            batch: images per call.
            calls: calls to take the median over, after a few untimed ones.

        Returns:
            None for a runtime that does not tell.
        """

    @abstractmethod
    def growth(self, sizes: Sequence[int]) -> Growth:
        """Multiply-adds at other image sizes.

        Args:
            sizes: sides of square images, pixels; at least two.

        Raises:
            UsageError: the architecture does not exist at one of them.
        """


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
        text: a preset, a baseline, a checkpoint's file, a bundle's folder, or `FOLDER:ARTIFACT`;
            the first three also as `NAME@RUNTIME`.
        settings: how to build it.

    Raises:
        UsageError: it names nothing; lists what there is. Or `settings` do not suit it.
        CheckpointError: a checkpoint that cannot be used.
        BundleError: a bundle or artifact that cannot be used.
        MissingDependencyError: a package that it needs is not installed.
    """
    name, _, suffix = text.rpartition("@")
    runtime = next((known for known in _RUNTIMES if name and known == suffix), None)
    if runtime is not None:
        subject = resolve(name, dataclasses.replace(settings, runtime=runtime))
        if not isinstance(subject, _TorchSubject):
            raise UsageError(f"{text}: a bundle's artifact has a runtime of its own")
        return dataclasses.replace(subject, label=text)
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
    close = difflib.get_close_matches(text, (*PRESETS, *BASELINES), n=1)
    raise UsageError(
        f"no model {text!r}: it is neither a file nor a folder. "
        + (f"Did you mean {close[0]}? " if close else "")
        + f"Presets: {', '.join(PRESETS)}. Baselines: {', '.join(BASELINES)}. "
        "Also a checkpoint (.pth, .safetensors), a bundle's folder, or FOLDER:ARTIFACT; "
        f"@ can be followed by {', '.join(_RUNTIMES)}"
    )


def _from_preset(name: str, settings: Settings) -> Subject:
    with profile_extra("build PyTorch models"):
        from lavit_deploy.model.lavit import LaViT
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
        from lavit_deploy.model.checkpoint import load_checkpoint
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
    with profile_extra("build baselines"):
        from lavit_deploy.profiles.baselines.build import build
    return _TorchSubject(
        label=baseline.name,
        kind="baseline",
        family=baseline.family,
        config=baseline.config,
        model=build(baseline, settings.attention),
        settings=settings,
        attention=settings.attention,
        published=baseline.published if baseline == BASELINES[baseline.name] else None,
        notes=(f"{_implementation(baseline)}, random weights", *baseline.notes),
        baseline=baseline,
    )


def _implementation(baseline: Baseline) -> str:
    ours = baseline.family in {"plain", "lit", "efficientvit"}
    return "reference module of this project" if ours else "implementation of transformers"


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
    baseline: Baseline | None = None

    def measure(self) -> ModelReport:
        with profile_extra("count multiply-adds"):
            import torch

            from lavit_deploy.profiles.baselines.module_rules import SPLITS
            from lavit_deploy.profiles.counting.trace import (
                parameters_by_place,
                summed_by_part,
                trace,
            )
        split = SPLITS[self.family]
        height, width = self.config.image_size
        generator = torch.Generator().manual_seed(0)  # PPT's work depends on the picture
        image = torch.randn(1, 3, height, width, generator=generator)
        traced = trace(self.model, image, split)
        places = parameters_by_place(self.model, split)
        parameters = summed_by_part(places)
        counts = closed_form(self.config)
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
                closed_form=None if counts is None else total(counts),
                by_part=_in_order(by_part(traced.by_stage)),
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
            cells=_cells(traced, places),
            operators=_operators(traced),
            modules=_modules(traced, self.model),
        )

    def split(self, batch: int, calls: int) -> TimeSplit | None:
        if self.settings.runtime != "torch":
            return None  # a compiled graph has no modules left
        with profile_extra("measure modules"):
            from lavit_deploy.profiles.baselines.module_rules import SPLITS
            from lavit_deploy.profiles.breakdown.module_times import ModuleTimes
            from lavit_deploy.profiles.timing.runners import torch_threads
        with torch_threads(self.settings.threads), self.open() as runner:
            runner.prepare(batch)
            with ModuleTimes(self.model, self.settings.device) as times:
                return times.split(runner.call, SPLITS[self.family], batch=batch, calls=calls)

    def growth(self, sizes: Sequence[int]) -> Growth:
        return grow(sizes, self._counts_at)

    def _counts_at(self, size: int) -> StageCounts:
        """Multiply-adds for square images of `size` pixels."""
        if self.baseline is None:
            return _counts_at(self.config, size)
        resized = self.baseline.at(size)
        counts = resized.closed_form()
        if counts is not None:
            return counts
        with profile_extra("count multiply-adds"):
            import torch

            from lavit_deploy.profiles.baselines.build import build
            from lavit_deploy.profiles.baselines.module_rules import SPLITS
            from lavit_deploy.profiles.counting.trace import trace
        model = build(resized, self.settings.attention)
        return trace(model, torch.zeros(1, 3, size, size), SPLITS[self.family]).by_stage

    def open(self) -> Runner:
        from lavit_deploy.profiles.timing.runners import TorchRunner

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
        parameters, counts = parameter_count(config), lavit_counts(config)
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
                by_part=_in_order(by_part(counts)),
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

    def split(self, batch: int, calls: int) -> TimeSplit | None:
        if self.settings.device != "cpu":
            return None  # a node profile on a GPU would time the launch of kernels
        from lavit_deploy.profiles.breakdown.node_profiles import artifact_split

        return artifact_split(
            self.bundle, self.artifact, batch=batch, calls=calls, threads=self.settings.threads
        )

    def growth(self, sizes: Sequence[int]) -> Growth:
        config: LaViTConfig = self.bundle.manifest.config
        return grow(sizes, lambda size: _counts_at(config, size))

    def open(self) -> Runner:
        from lavit_deploy.profiles.timing.runners import ArtifactRunner

        runtime = open_artifact(
            self.bundle, self.artifact, device=self.settings.device, threads=self.settings.threads
        )
        return ArtifactRunner(self.label, runtime)


def _counts_at(config: Architecture, size: int) -> StageCounts:
    """Multiply-adds of a LaViT for square images of `size` pixels."""
    try:
        resized = dataclasses.replace(config, image_size=(size, size))
    except ConfigError as error:
        raise UsageError(f"at {size} pixels: {error}") from None
    counts = closed_form(resized)
    if counts is None:
        raise TypeError(f"no closed form for {type(config).__name__}")
    return counts


def _cells(traced: Traced, parameters: Counter[Place]) -> tuple[Cell, ...]:
    """Every stage and part that has parameters or costs, in the order of the network."""
    found = sorted({*traced.by_place, *parameters}, key=_cell_order)
    return tuple(
        Cell(
            stage=place.stage,
            part=place.part,
            parameters=parameters[place],
            multiply_adds=amounts["multiply_adds"],
            activations=amounts["activations"],
            bytes_moved=amounts["bytes_moved"],
        )
        for place, amounts in ((place, traced.by_place.get(place, Counter())) for place in found)
    )


def _cell_order(place: Place) -> tuple[bool, bool, str, int]:
    known = place.part in PARTS
    order = PARTS.index(place.part) if known else len(PARTS)
    return not known, not place.stage.startswith("stage"), place.stage, order


def _operators(traced: Traced) -> tuple[OperatorCost, ...]:
    """Every operator, the one with most multiply-adds first, then by the bytes it moves."""
    found = [
        OperatorCost(
            operator=operator,
            calls=amounts["calls"],
            multiply_adds=amounts["multiply_adds"],
            activations=amounts["activations"],
            elements=amounts["elements"],
            bytes_moved=amounts["bytes_moved"],
        )
        for operator, amounts in traced.by_operator_and_measure.items()
    ]
    return tuple(sorted(found, key=lambda one: (-one.multiply_adds, -one.bytes_moved)))


def _modules(traced: Traced, model: nn.Module) -> tuple[ModuleCost, ...]:
    """Every module that ran, in the order of the model."""
    return tuple(
        ModuleCost(
            module=name,
            parameters=sum(parameter.numel() for parameter in module.parameters()),
            multiply_adds=traced.by_module[name]["multiply_adds"],
            activations=traced.by_module[name]["activations"],
            bytes_moved=traced.by_module[name]["bytes_moved"],
        )
        for name, module in model.named_modules()
        if traced.by_module.get(name)
    )


def _in_order(counts: Counter[str]) -> dict[str, int]:
    """Parts in the order of the network, without the empty ones."""
    order = [*PARTS, *sorted(set(counts) - set(PARTS))]
    return {part: counts[part] for part in order if counts[part]}


def _by_stage(counts: StageCounts) -> dict[str, dict[str, int]]:
    return {stage: _in_order(counts[stage]) for stage in sorted(counts, key=_stage_order)}


def _stage_order(stage: str) -> tuple[bool, str]:
    return not stage.startswith("stage"), stage
