"""What the names on a command line mean: presets, baselines, files, folders, and a runtime."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path
from typing import get_args

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.common.errors import UsageError
from lavit_deploy.families.catalogue import preset_names
from lavit_deploy.profiles.baselines import BASELINES
from lavit_deploy.profiles.subjects.artifact_model import from_bundle
from lavit_deploy.profiles.subjects.builders import from_baseline, from_checkpoint, from_preset
from lavit_deploy.profiles.subjects.profiled_model import ProfiledModel, RunSettings
from lavit_deploy.profiles.subjects.torch_model import TorchModel
from lavit_deploy.profiles.timing.runner import TorchRuntime

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
"""Endings by which a missing file is known to have been meant as a checkpoint."""

_RUNTIMES: tuple[TorchRuntime, ...] = get_args(TorchRuntime)


def resolve(text: str, settings: RunSettings) -> ProfiledModel:
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
        model = resolve(name, dataclasses.replace(settings, runtime=runtime))
        if not isinstance(model, TorchModel):
            raise UsageError(f"{text}: a bundle's artifact has a runtime of its own")
        return dataclasses.replace(model, label=text)
    presets = preset_names()
    if text in presets:
        return from_preset(text, settings)
    if text in BASELINES:
        return from_baseline(BASELINES[text], settings)
    path = Path(text)
    folder, _, artifact = text.rpartition(":")
    if path.is_dir():
        return from_bundle(text, Bundle.open(path), "auto", settings)
    if path.is_file() or path.suffix in CHECKPOINT_SUFFIXES:
        return from_checkpoint(path, settings)
    if folder and Path(folder).is_dir():
        return from_bundle(text, Bundle.open(Path(folder)), artifact, settings)
    close = difflib.get_close_matches(text, (*presets, *BASELINES), n=1)
    raise UsageError(
        f"no model {text!r}: it is neither a file nor a folder. "
        + (f"Did you mean {close[0]}? " if close else "")
        + f"Presets: {', '.join(presets)}. Baselines: {', '.join(BASELINES)}. "
        "Also a checkpoint (.pth, .safetensors), a bundle's folder, or FOLDER:ARTIFACT; "
        f"@ can be followed by {', '.join(_RUNTIMES)}"
    )
