"""Reading and writing checkpoints.

`lavit_s.pth` is `torch.save({"model": state_dict, "family": "lavit", "config": {...},
"preprocess": {...}, "classes": [names]})`, optionally with "model_ema"; `.safetensors` has the same
as JSON strings in its metadata. What others save is read too: weights under any key and with any
wrapper's prefix, bare state_dicts, modules that were pickled whole, shards, and folders of Hugging
Face. What the file does not say is concluded from the shapes, and said.

Pickles are never trusted: `torch.load(weights_only=True)` always.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from lavit_deploy.common.atomic_files import atomic_path
from lavit_deploy.common.errors import CheckpointError, UsageError
from lavit_deploy.common.validation import problems
from lavit_deploy.families.catalogue import Family, config_of, family_of
from lavit_deploy.families.family import Configuration
from lavit_deploy.preprocess import Preprocess
from lavit_deploy.weights.candidates import WeightsOption, is_averaged, key_of
from lavit_deploy.weights.files import read_content
from lavit_deploy.weights.model_tensors import ModelTensors, StateDict, empty_model
from lavit_deploy.weights.source import Source


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint says.

    Attributes:
        config: the model's configuration.
        state_dict: its tensors, by the model's own names.
        preprocess: how pictures become its input.
        classes: class names in the order of the logits.
        architecture: preset that `config` equals, "custom" otherwise.
        weights: dotted key of the weights that were taken; empty where they are all that is there.
        inferred: what the file did not say and was concluded or assumed, as sentences.
        notes: how its tensors were found, and what was passed over, as sentences.
        file: the file or folder that it was read from.
        sha256: hash of the file's bytes; of several files, of their hashes and names.
    """

    config: Configuration
    state_dict: StateDict
    preprocess: Preprocess
    classes: tuple[str, ...]
    architecture: str
    weights: str
    inferred: tuple[str, ...]
    file: Path
    sha256: str
    notes: tuple[str, ...] = ()

    @property
    def family(self) -> Family:
        """The family that the model is of."""
        return family_of(self.config)

    def build(self) -> nn.Module:
        """The model with these weights, float32, in evaluation mode."""
        model = empty_model(self.config)
        model.load_state_dict(self.state_dict, assign=True)
        return model.float().eval()


def load_checkpoint(
    path: Path,
    *,
    arch: str | None = None,
    use_ema: bool = False,
    weights: str | None = None,
    image_size: tuple[int, int] | None = None,
) -> Checkpoint:
    """Read a checkpoint, and check that its tensors are weights that fit its model.

    Args:
        path: `.pth`, `.pt`, `.ckpt`, `.bin`, `.safetensors`, `.index.json` of shards, or a folder
            with `config.json` and weights.
        arch: name of the preset, for a file that does not say and shapes that do not tell.
        use_ema: take averaged weights, such as those under "model_ema".
        weights: dotted key that the weights are under, where several fit.
        image_size: height and width of the model's input, where shapes do not tell.

    Raises:
        CheckpointError: the file is missing, is no checkpoint, or does not fit; every tensor that
            is missing, unexpected, misshapen, of a kind that cannot be used or not finite is named.
        ConfigError: `arch` is no preset.
        UsageError: `weights` and `use_ema` together.
    """
    if weights is not None and use_ema:
        raise UsageError("--weights KEY names the weights: leave out --use-ema")
    source = Source(path, read_content(path), WeightsOption(weights, use_ema), image_size)
    config, fit = source.configured(arch) or source.inferred(arch)
    key = key_of(source.tree, fit, source.option)
    if is_averaged(fit.node) and not use_ema and weights is None:
        source.assumed.append(f"averaged weights, under {key}: no others fit")
    return Checkpoint(
        config=config,
        state_dict=ModelTensors(config).of(fit, path),
        preprocess=_preprocess_of(source.content.values, config, path, source.assumed),
        classes=_classes_of(source.content.values, config, path, source.assumed),
        architecture=family_of(config).preset_name(config),
        weights=key,
        inferred=tuple(source.assumed),
        notes=(*source.content.notes, *source.notes, *source.account(fit)),
        file=path,
        sha256=source.content.sha256(),
    )


def read_state_dict(path: Path) -> StateDict:
    """The tensors of a file by name, whatever model they are of.

    They are those of the dictionary with the most; what all names begin with is removed.

    Raises:
        CheckpointError: the file is missing, is no checkpoint, or has no tensors.
    """
    source = Source(path, read_content(path), WeightsOption(), None)
    node = source.largest()
    while len(node.children) == 1 and node.tensor is None:
        (node,) = node.children.values()
    return {
        ".".join(leaf.path[len(node.path) :]): leaf.tensor
        for leaf in node.leaves()
        if leaf.tensor is not None
    }


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
            import safetensors.torch

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


def _preprocess_of(
    content: Mapping[str, Any], config: Configuration, path: Path, inferred: list[str]
) -> Preprocess:
    given = content.get("preprocess")
    if not isinstance(given, dict):
        preprocess = Preprocess.for_size(config.image_size, config.in_channels)
        why = "the file does not say"
        if given is not None:  # such as a transform of torchvision, which was not created
            why = f"its preprocess entry is no dictionary but a {type(given).__name__}"
        inferred.append(
            f"preprocessing: {preprocess.sizes}, crop {list(preprocess.crop)}, "
            f"{preprocess.interpolation}, ImageNet mean and std ({why})"
        )
        return preprocess
    try:
        preprocess = Preprocess.model_validate(given)
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
    content: Mapping[str, Any], config: Configuration, path: Path, inferred: list[str]
) -> tuple[str, ...]:
    names = content.get("classes")
    if names is None:
        inferred.append("class names: numbers (the file has none; see --classes)")
        return tuple(str(index) for index in range(config.num_classes))
    if isinstance(names, dict) and set(names) == set(range(config.num_classes)):
        names = [names[index] for index in range(config.num_classes)]
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        found = f"a {type(names).__name__}"
    elif len(names) != config.num_classes:
        found = str(len(names))
    else:
        return tuple(names)
    raise CheckpointError(
        f"{path}: its classes entry must be {config.num_classes} names, one for each logit; "
        f"found {found} (--classes FILE gives others)"
    )
