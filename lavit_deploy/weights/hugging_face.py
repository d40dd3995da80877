"""What a folder in the layout of Hugging Face says beside its weights.

`config.json` is that of `save_pretrained` (https://huggingface.co/docs/transformers/main_classes/configuration)
or of timm (`pretrained_cfg`), `preprocessor_config.json` that of an image processor.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavit_deploy.common.errors import CheckpointError
from lavit_deploy.weights.json_files import read_json

_CONFIG = "config.json"
_PROCESSOR = "preprocessor_config.json"
_ELSEWHERE = frozenset(
    {"classes", "family", "id2label", "label2id", "label_names", "preprocess", "pretrained_cfg"}
)
"""Keys of `config.json` that are read here, and are not the model's sizes."""

_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, which image processors store."""


@dataclass(frozen=True)
class About:
    """What was found beside the weights.

    Attributes:
        values: by the keys of a checkpoint: `config`, `family`, `classes`, `preprocess`.
        files: names of the files that were read.
        notes: what is not kept to, as sentences.
    """

    values: dict[str, Any]
    files: tuple[str, ...]
    notes: tuple[str, ...]


def described(folder: Path, names: Collection[str]) -> About:
    """Read what describes the weights of a folder.

    Args:
        folder: where.
        names: of the files in it.

    Raises:
        CheckpointError: a file is no JSON object, or asks for what no preprocessing here has.
    """
    config = read_json(folder / _CONFIG) if _CONFIG in names else {}
    processor = read_json(folder / _PROCESSOR) if _PROCESSOR in names else {}
    inner = config.get("config")
    own = {key: value for key, value in config.items() if key not in _ELSEWHERE}
    values: dict[str, Any] = {"config": inner if isinstance(inner, dict) else own}
    if "family" in config:
        values["family"] = config["family"]
    if (classes := _classes(config)) is not None:
        values["classes"] = classes
    notes: list[str] = []
    timm = config.get("pretrained_cfg")
    if isinstance(config.get("preprocess"), dict):
        values["preprocess"] = config["preprocess"]
    elif processor:
        values["preprocess"] = _of_processor(processor, folder / _PROCESSOR, notes)
    elif isinstance(timm, dict) and "input_size" in timm:
        values["preprocess"] = _of_timm(timm)
    read = tuple(name for name in (_CONFIG, _PROCESSOR) if name in names)
    return About(values, read, tuple(notes))


def _classes(config: dict[str, Any]) -> list[Any] | None:
    """Names of the classes, in the order of the logits; None where it has none."""
    for key in ("classes", "label_names"):
        if isinstance(config.get(key), list):
            return config[key]
    named = config.get("id2label")
    if not isinstance(named, dict) or not all(str(key).isdigit() for key in named):
        return None
    return [named[key] for key in sorted(named, key=int)]


def _of_processor(said: dict[str, Any], file: Path, notes: list[str]) -> dict[str, Any]:
    """Preprocessing as an image processor describes it."""
    size, crop = said.get("size"), said.get("crop_size")
    found: dict[str, Any] = {}
    resized = _sides(size)
    if isinstance(size, dict) and "shortest_edge" in size:
        found["resize"] = size["shortest_edge"]
    elif isinstance(size, int):
        found["resize"] = size
    elif resized is not None:
        found["resize"] = resized
        notes.append(
            f"{file.name} stretches pictures to {resized[0]} x {resized[1]}; here they are resized "
            "to cover that, and cropped"
        )
    cropped = _sides(crop) if said.get("do_center_crop", crop is not None) else resized
    if cropped is not None:
        found["crop"] = cropped
    if (number := said.get("resample")) is not None:
        if number not in _FILTERS:
            raise CheckpointError(
                f"{file}: resample is {number!r}; there are {sorted(_FILTERS.items())}"
            )
        found["interpolation"] = _FILTERS[number]
    if said.get("do_normalize", True):
        found.update(
            {key: said[f"image_{key}"] for key in ("mean", "std") if f"image_{key}" in said}
        )
    else:
        found.update(mean=[0.0] * 3, std=[1.0] * 3)
    return found


def _sides(size: object) -> list[Any] | None:
    """Height and width of a size; None where it says something else."""
    if isinstance(size, int):
        return [size, size]
    if isinstance(size, dict) and {"height", "width"} <= set(size):
        return [size["height"], size["width"]]
    return None


def _of_timm(said: dict[str, Any]) -> dict[str, Any]:
    """Preprocessing as timm's `pretrained_cfg` describes it; `input_size` is [C, H, W]."""
    height, width = said["input_size"][-2:]
    share = said.get("crop_pct", 0.875)
    resize = [int(side / share) for side in (height, width)]
    found = {"resize": resize[0] if resize[0] == resize[1] else resize, "crop": [height, width]}
    return found | {key: said[key] for key in ("interpolation", "mean", "std") if key in said}
