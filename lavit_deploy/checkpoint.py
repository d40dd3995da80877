"""Reading and writing checkpoints.

`lavit_s.pth` is `torch.save({"model": state_dict, "family": "lavit", "config": {...},
"preprocess": {...}, "classes": [names]})`, optionally with "model_ema". Also accepted: a bare
state_dict, a dictionary that holds one under "state_dict", and `.safetensors` with the same
metadata as JSON strings. The prefixes of DistributedDataParallel (`module.`) and torch.compile
(`_orig_mod.`) are removed.

Pickles are never trusted: `torch.load(weights_only=True)` always.
"""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from lavit_deploy.common.atomic_files import atomic_path, sha256_of
from lavit_deploy.common.errors import CheckpointError, ConfigError
from lavit_deploy.common.validation import problems
from lavit_deploy.families.catalogue import (
    DEFAULT,
    Family,
    all_families,
    config_of,
    family_of,
    family_of_preset,
    find_family,
)
from lavit_deploy.families.family import Configuration
from lavit_deploy.preprocess import Preprocess

StateDict = dict[str, Tensor]

_PREFIXES = ("module.", "_orig_mod.")
_NO_CHECKPOINT = (
    "{path} is damaged or not a PyTorch checkpoint: expected a file of torch.save, or .safetensors"
)
_LISTED = 20  # tensors of each kind shown in full before a mismatch is cut and counted


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file says.

    Attributes:
        config: the model's configuration.
        state_dict: its tensors, prefixes removed.
        preprocess: how pictures become its input.
        classes: class names in the order of the logits.
        architecture: preset that `config` equals, "custom" otherwise.
        weights: which of the file's weights were taken.
        inferred: what the file did not say and was concluded or assumed, as sentences.
        file: where it was read from.
        sha256: hash of the file's bytes.
    """

    config: Configuration
    state_dict: StateDict
    preprocess: Preprocess
    classes: tuple[str, ...]
    architecture: str
    weights: Literal["model", "model_ema"]
    inferred: tuple[str, ...]
    file: Path
    sha256: str

    @property
    def family(self) -> Family:
        """The family that the model is of."""
        return family_of(self.config)

    def build(self) -> nn.Module:
        """The model with these weights, float32, in evaluation mode.

        Raises:
            CheckpointError: tensors are missing, unexpected, misshapen or not finite; all are
                listed.
        """
        with torch.device("meta"):
            model = self.family.build(self.config)
        check_fit(model, self.state_dict, source=str(self.file))
        broken = [key for key, value in self.state_dict.items() if not value.isfinite().all()]
        if broken:
            raise CheckpointError(f"{self.file} holds NaN or infinity in {', '.join(broken)}")
        model.load_state_dict(self.state_dict, assign=True)
        return model.float().eval()


def load_checkpoint(path: Path, *, arch: str | None = None, use_ema: bool = False) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: `.pth`, `.pt`, `.ckpt`, `.bin` or `.safetensors`.
        arch: name of the preset, for a file that does not say and shapes that do not tell.
        use_ema: take the averaged weights ("model_ema") instead of "model".

    Raises:
        CheckpointError: the file is missing, is no checkpoint, wants to run code, or does not fit.
        ConfigError: `arch` is no preset.
    """
    content = _read(path)
    state_dict, weights = _select_weights(content, path, use_ema=use_ema)
    inferred: list[str] = []
    config = _config_of(content, state_dict, path, arch, inferred)
    return Checkpoint(
        config=config,
        state_dict=state_dict,
        preprocess=_preprocess_of(content, config, path, inferred),
        classes=_classes_of(content, config, path, inferred),
        architecture=family_of(config).preset_name(config),
        weights=weights,
        inferred=tuple(inferred),
        file=path,
        sha256=sha256_of(path),
    )


def read_state_dict(path: Path) -> StateDict:
    """The tensors of a file by name, prefixes removed, whatever model they are of.

    Raises:
        CheckpointError: the file is missing, is no checkpoint, or wants to run code.
    """
    return _select_weights(_read(path), path, use_ema=False)[0]


def save_checkpoint(
    path: Path, model: nn.Module, *, preprocess: Preprocess, classes: tuple[str, ...] | list[str]
) -> None:
    """Write a checkpoint that `load_checkpoint` reads, by the suffix as pickle or safetensors.

    Args:
        path: file to write.
        model: of any family, so that it keeps its configuration as `config`.
        preprocess: how pictures become its input.
        classes: class names in the order of the logits.

    Raises:
        CheckpointError: the number of class names is not the number of logits.
    """
    config = config_of(model)
    if len(classes) != config.num_classes:
        raise CheckpointError(f"{len(classes)} class names for {config.num_classes} logits")
    state_dict = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    about = {
        "family": family_of(config).name,
        "config": config.to_dict(),
        "preprocess": preprocess.model_dump(mode="json"),
        "classes": list(classes),
    }
    with atomic_path(path) as temporary:
        if path.suffix == ".safetensors":
            metadata = {key: json.dumps(value) for key, value in about.items()}
            contiguous = {key: value.contiguous() for key, value in state_dict.items()}
            safetensors.torch.save_file(contiguous, temporary, metadata=metadata)
        else:
            write_pickle({"model": state_dict, **about}, temporary)


def write_pickle(content: dict[str, Any], path: Path) -> None:
    """`torch.save`, which on a full disk complains of positions in its archive alone.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def check_fit(model: nn.Module, state_dict: StateDict, *, source: str) -> None:
    """Compare names and shapes.

    Raises:
        CheckpointError: lists every missing, unexpected and misshapen tensor.
    """
    problems = _misfits(model, state_dict)
    if problems:
        raise CheckpointError(
            f"{source} does not fit the model ({len(problems)} tensors):\n  "
            + "\n  ".join(problems)
        )


def _misfits(model: nn.Module, state_dict: StateDict) -> list[str]:
    expected = model.state_dict()
    missing = [
        f"missing    {key} {_shape(expected[key])}" for key in expected if key not in state_dict
    ]
    unexpected = [
        f"unexpected {key} {_shape(state_dict[key])}" for key in state_dict if key not in expected
    ]
    misshapen = [
        f"misshapen  {key} {_shape(state_dict[key])}, the model has {_shape(expected[key])}"
        for key in expected
        if key in state_dict and state_dict[key].shape != expected[key].shape
    ]
    return missing + unexpected + misshapen


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)


def _read(path: Path) -> dict[str, Any]:
    try:
        path.open("rb").close()
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint at {path}") from None
    except OSError as error:  # a folder, or a file of somebody else
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)


def _read_pickle(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error):
            wanted = str(error).partition("GLOBAL ")[2].split(" ")[0] or "an unknown object"
            raise CheckpointError(
                f"{path} is a pickle that wants to create {wanted}: refused, because that can run "
                "any code. Save its state_dict alone, or use safetensors"
            ) from None
        raise CheckpointError(_NO_CHECKPOINT.format(path=path)) from None
    # What the unpickler does with bytes that are no pickle depends on the bytes.
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError):
        raise CheckpointError(_NO_CHECKPOINT.format(path=path)) from None
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}; expected a dictionary of tensors"
        )
    return content


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        about = {
            key: json.loads(metadata[key])
            for key in ("family", "config", "preprocess", "classes")
            if key in metadata
        }
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from None
    return {"model": tensors, **about}


def _select_weights(
    content: dict[str, Any], path: Path, *, use_ema: bool
) -> tuple[StateDict, Literal["model", "model_ema"]]:
    """The state_dict to use, its prefixes removed, and where it was found."""
    if use_ema:
        found = content.get("model_ema")
        if not isinstance(found, dict):
            present = sorted(map(str, content))[:_LISTED]
            raise CheckpointError(f"{path} has no averaged weights (model_ema); it has {present}")
        return _clean(found, path), "model_ema"
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), dict):
            return _clean(content[key], path), "model"
    return _clean(content, path), "model"


def _clean(state_dict: dict[str, Any], path: Path) -> StateDict:
    """Tensors only, and no wrapper's prefixes (they can be nested in any order)."""
    strangers = [str(key) for key, value in state_dict.items() if not isinstance(value, Tensor)]
    if strangers or not state_dict:
        raise CheckpointError(
            f"{path} holds no state_dict: expected tensors by name"
            + (f", found other things under {strangers[:_LISTED]}" if strangers else "")
        )
    cleaned = {}
    for key, value in state_dict.items():
        name = str(key)
        while name.startswith(_PREFIXES):
            name = name.removeprefix(next(p for p in _PREFIXES if name.startswith(p)))
        cleaned[name] = value
    cleaned.pop("n_averaged", None)  # AveragedModel's counter
    return cleaned


def _config_of(
    content: dict[str, Any],
    state_dict: StateDict,
    path: Path,
    arch: str | None,
    inferred: list[str],
) -> Configuration:
    stored = content.get("config")
    if isinstance(stored, dict):
        try:
            family = find_family(str(content.get("family", DEFAULT)))
            config: Configuration = family.read_config(stored)
        except ConfigError as error:
            raise CheckpointError(f"{path}: its config is invalid: {error}") from None
        found = family.preset_name(config)
        if arch is not None and found != arch:
            family_of_preset(arch)  # a misspelt name is its own error
            raise CheckpointError(f"{path} says it is {found}, --arch says {arch}")
        return config
    if arch is not None:
        candidates = {arch: family_of_preset(arch)}
    else:
        candidates = {name: family for family in all_families() for name in family.presets}
    shapes = {key: tuple(value.shape) for key, value in state_dict.items()}
    misfits: dict[str, list[str]] = {}
    for name, family in candidates.items():
        config = family.fitted_preset(name, shapes)
        with torch.device("meta"):
            misfits[name] = _misfits(family.build(config), state_dict)
        if not misfits[name]:
            if arch is None:
                inferred.append(
                    f"architecture {name} {list(config.image_size)}, from the tensor shapes"
                )
            return config
    nearest = min(misfits, key=lambda name: len(misfits[name]))
    raise CheckpointError(
        f"{path} says no configuration, and its tensors fit none of {', '.join(candidates)}. "
        f"Nearest is {nearest}, with {len(misfits[nearest])} tensors that differ:\n  "
        + "\n  ".join(misfits[nearest])
    )


def _preprocess_of(
    content: dict[str, Any], config: Configuration, path: Path, inferred: list[str]
) -> Preprocess:
    if "preprocess" not in content or not isinstance(content["preprocess"], dict):
        preprocess = Preprocess.for_size(config.image_size, config.in_channels)
        inferred.append(
            f"preprocessing: {preprocess.sizes}, crop {list(preprocess.crop)}, "
            f"{preprocess.interpolation}, ImageNet mean and std (the file does not say)"
        )
        return preprocess
    try:
        preprocess = Preprocess.model_validate(content["preprocess"])
    except ValidationError as error:
        raise CheckpointError(
            f"{path}: its preprocess entry is invalid: {problems(error)}"
        ) from None
    if preprocess.crop != config.image_size:
        raise CheckpointError(
            f"{path}: preprocessing crops to {list(preprocess.crop)}, the model takes "
            f"{list(config.image_size)}"
        )
    if len(preprocess.mean) != config.in_channels:
        raise CheckpointError(
            f"{path}: preprocessing gives {len(preprocess.mean)} channels, the model takes "
            f"{config.in_channels}"
        )
    return preprocess


def _classes_of(
    content: dict[str, Any], config: Configuration, path: Path, inferred: list[str]
) -> tuple[str, ...]:
    names = content.get("classes")
    if names is None:
        inferred.append("class names: numbers (the file has none; see --classes)")
        return tuple(str(index) for index in range(config.num_classes))
    if (
        not isinstance(names, list | tuple)
        or len(names) != config.num_classes
        or not all(isinstance(name, str) for name in names)
    ):
        raise CheckpointError(
            f"{path}: its classes entry must be {config.num_classes} names, one for each logit"
        )
    return tuple(names)
