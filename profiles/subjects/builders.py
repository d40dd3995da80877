"""PyTorch models to profile, from a preset, a checkpoint or a baseline."""

from __future__ import annotations

from pathlib import Path

from lavit_deploy.families.catalogue import family_of_preset
from lavit_deploy.families.lavit import LAVIT
from lavit_deploy.profiles.baselines import PAPER, Baseline
from lavit_deploy.profiles.counting.family_architecture import FamilyArchitecture
from lavit_deploy.profiles.extra import profile_extra
from lavit_deploy.profiles.subjects.profiled_model import RunSettings
from lavit_deploy.profiles.subjects.torch_model import TorchModel

_READING = (
    "depths and the layer where less-attention begins are this project's reading: "
    "the paper's table of variants is legible for LaViT-S only"
)
_PAPER_FLOPS = "no reading of the paper gives the FLOPs that it prints for LaViT"
_IMPLEMENTATIONS = {
    "transformers": "implementation of transformers",
    "reference module": "reference module of this project",
}


def from_preset(name: str, settings: RunSettings) -> TorchModel:
    """A model of a preset's sizes with random weights.

    Raises:
        ConfigError: it does not exist at the image size of `settings`.
    """
    size = {} if settings.image_size is None else {"image_size": settings.image_size}
    family = family_of_preset(name)
    config = family.preset(name, **size)
    published = PAPER.get(name) if config == family.preset(name) else None
    read = family is LAVIT and name not in {"lavit_nano", "lavit_micro", "lavit_s"}
    notes = (_READING,) if read else ()
    architecture = FamilyArchitecture(config)
    with profile_extra("build PyTorch models"):
        model = architecture.build("eager")
    return TorchModel(
        label=name,
        kind="preset",
        architecture=architecture,
        model=model,
        settings=settings,
        attention="eager",
        published=published,
        notes=notes + ((_PAPER_FLOPS,) if published else ()),
    )


def from_checkpoint(path: Path, settings: RunSettings) -> TorchModel:
    """A checkpoint's model with its trained weights.

    Raises:
        CheckpointError: it cannot be used.
        UsageError: `settings` ask for another image size than that of the weights.
    """
    with profile_extra("read checkpoints"):
        from lavit_deploy.checkpoint import load_checkpoint
    checkpoint = load_checkpoint(path)
    settings.refuse_resizing(str(path), checkpoint.config.image_size)
    return TorchModel(
        label=str(path),
        kind="checkpoint",
        architecture=FamilyArchitecture(checkpoint.config),
        model=checkpoint.build(),
        settings=settings,
        attention="eager",
        notes=checkpoint.inferred,
    )


def from_baseline(baseline: Baseline, settings: RunSettings) -> TorchModel:
    """A baseline with random weights, at its own image size or that of `settings`.

    Raises:
        UsageError: the architecture does not exist at that size.
    """
    baseline = baseline.at(settings.image_size)
    with profile_extra("build baselines"):
        model = baseline.build(settings.attention)
    implementation = _IMPLEMENTATIONS[baseline.family.implementation]
    return TorchModel(
        label=baseline.name,
        kind="baseline",
        architecture=baseline,
        model=model,
        settings=settings,
        attention=settings.attention,
        published=baseline.published,
        notes=(f"{implementation}, random weights", *baseline.notes),
    )
