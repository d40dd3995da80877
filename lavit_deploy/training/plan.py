"""What a command line asks to be trained: data, architecture and recipe, new or resumed."""

from __future__ import annotations

import argparse
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavit_deploy.common.atomic_files import sha256_of
from lavit_deploy.common.environment import command_line
from lavit_deploy.common.errors import UsageError
from lavit_deploy.datasets import DIGITS, FASHION_MNIST, is_idx_folder
from lavit_deploy.model.config import STAGES, LaViTConfig, preset
from lavit_deploy.training.recipe import RECIPES, Recipe
from lavit_deploy.training.stability.failure import what_to_try

_SHORTHANDS = {"batch_size": "batch_size", "lr": "base_lr", "dp_weight": "dp_weight"}
_SHORTHANDS |= {"precision": "precision", "seed": "seed"}


@dataclass(frozen=True)
class TeacherFile:
    """The classifier that a training learns from.

    Attributes:
        file: what `load_teacher` takes.
        sha256: of its bytes.
    """

    file: Path
    sha256: str

    @classmethod
    def of(cls, file: Path) -> TeacherFile:
        """The teacher in a file, as it is now.

        Raises:
            UsageError: there is no such file.
        """
        if not file.is_file():
            raise UsageError(f"no teacher at {file}")
        return cls(file, sha256_of(file))

    def to_dict(self) -> dict[str, str]:
        """What recipe.json and the training state say of it."""
        return {"file": str(self.file), "sha256": self.sha256}


def _same_teacher(asked: Path | None, stored: dict[str, str] | None) -> TeacherFile | None:
    """The teacher of a training to resume.

    Raises:
        UsageError: another is asked for, or the file holds another now.
    """
    if asked is not None and (stored is None or str(asked) != stored["file"]):
        had = stored["file"] if stored else "none"
        raise UsageError(f"--resume cannot change the teacher: it is {had}, --teacher is {asked}")
    if stored is None:
        return None
    teacher = TeacherFile.of(Path(stored["file"]))
    if teacher.sha256 != stored["sha256"]:
        raise UsageError(f"{teacher.file} is another teacher than the training had")
    return teacher


@dataclass(frozen=True)
class Plan:
    """One training.

    Attributes:
        data: what `open_data` takes.
        arch: name of the preset.
        init_from: checkpoint of the same architecture to begin from, or None.
        init_from_pvt: checkpoint of an official PVT v1 to begin from, or None.
        teacher: classifier to learn from beside the labels, or None.
        model: fields of the architecture that differ from the preset's.
        recipe: how to train.
        command: the command line that began it.
        threads: CPU threads of each process, None for as many as there are cores.
    """

    data: str
    arch: str
    model: dict[str, Any]
    init_from: Path | None
    init_from_pvt: Path | None
    teacher: TeacherFile | None
    recipe: Recipe
    command: tuple[str, ...]
    threads: int | None

    def about(self) -> dict[str, Any]:
        """What recipe.json and the training state say beside the recipe."""
        return {
            "command": list(self.command),
            "data": self.data,
            "arch": self.arch,
            "model": self.model,
            "init_from": str(self.init_from) if self.init_from else None,
            "init_from_pvt": str(self.init_from_pvt) if self.init_from_pvt else None,
            "teacher": self.teacher.to_dict() if self.teacher else None,
            "threads": self.threads,
        }

    def config(self, num_classes: int) -> LaViTConfig:
        """The architecture: the preset with the fields that differ.

        Raises:
            ConfigError: an unknown field, or a value that breaks a rule of the architecture.
        """
        size = self.recipe.image_size
        base = preset(self.arch, num_classes=num_classes, image_size=size)
        if not self.model:
            return base
        return LaViTConfig.from_dict({**base.to_dict(), **self.model})


def new_plan(options: argparse.Namespace) -> Plan:
    """The training that the options describe.

    Raises:
        UsageError: --data or --arch is missing, or the recipe makes no training.
    """
    missing = [f"--{name}" for name in ("data", "arch") if getattr(options, name) is None]
    if missing:
        raise UsageError(f"{' and '.join(missing)} needed (unless --resume continues a training)")
    return Plan(
        data=options.data,
        arch=options.arch,
        model=model_settings(options.model_set),
        init_from=options.init_from,
        init_from_pvt=options.init_from_pvt,
        teacher=TeacherFile.of(options.teacher) if options.teacher else None,
        recipe=recipe_of(options, read_recipe(options.recipe or usual_recipe(options.data))),
        command=tuple(command_line()),
        threads=options.threads,
    )


def usual_recipe(data: str) -> str:
    """The recipe for data that names none: small grey pictures are not trained as ImageNet is."""
    if data == DIGITS:
        return "digits"
    if data.partition(":")[0] == FASHION_MNIST or is_idx_folder(Path(data)):
        return "fashion-mnist"
    return "imagenet"


def single_key_stages(config: LaViTConfig) -> tuple[int, ...]:
    """1-based stages whose queries have one key to attend to: a softmax over it is always 1."""
    return tuple(stage + 1 for stage in range(STAGES) if config.keys(stage) == 1)


REMEDIES = ("base_lr", "clip_norm", "dp_weight", "score_limit")
"""Fields of the recipe that a training which failed may go on with changed."""


def mended_plan(options: argparse.Namespace, state: dict[str, Any]) -> Plan:
    """The training of the last good state of one that failed, with something changed.

    Raises:
        UsageError: nothing is changed, or something that is no remedy.
    """
    plan = resumed_plan(options, state, may_change=REMEDIES)
    stored = Recipe.from_dict(state["recipe"])
    if plan.recipe == stored:
        raise UsageError(
            f"the training failed after epoch {state['position'][0]}; as it was it would fail "
            f"again: --resume needs a change, such as {what_to_try(stored)}"
        )
    return plan


def resumed_plan(
    options: argparse.Namespace, state: dict[str, Any], may_change: tuple[str, ...] = ()
) -> Plan:
    """The training that a state is of; options may repeat what it says, but not change it.

    Args:
        options: the command line.
        state: what `load_state` gave.
        may_change: fields of the recipe that options may change nevertheless.

    Raises:
        UsageError: an option would change the training's result.
    """
    about, stored = state["about"], Recipe.from_dict(state["recipe"])
    if options.arch not in {None, about["arch"]}:
        raise UsageError(f"the training to resume is of {about['arch']}, --arch is {options.arch}")
    for name in ("init_from", "init_from_pvt"):
        given = getattr(options, name)
        if given is not None and str(given) != about.get(name):
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} is for a new training, this one has its weights")
    teacher = _same_teacher(options.teacher, about.get("teacher"))
    model = about.get("model", {})  # a training of an earlier version has none
    for name, value in model_settings(options.model_set).items():
        if model.get(name) != value:
            raise UsageError(
                f"--resume cannot change the architecture: --model-set {name} is {value}, the "
                f"training has {model.get(name, 'that of its preset')}"
            )
    asked = recipe_of(options, read_recipe(options.recipe) if options.recipe else stored)
    changed = [
        f"{field.name} {getattr(stored, field.name)} -> {getattr(asked, field.name)}"
        for field in dataclasses.fields(Recipe)
        if field.name not in may_change
        and getattr(stored, field.name) != getattr(asked, field.name)
    ]
    if changed:
        raise UsageError(f"--resume cannot change the recipe: {', '.join(changed)}")
    return Plan(
        data=options.data or about["data"],
        arch=about["arch"],
        model=model,
        init_from=Path(about["init_from"]) if about.get("init_from") else None,
        init_from_pvt=Path(about["init_from_pvt"]) if about["init_from_pvt"] else None,
        teacher=teacher,
        recipe=asked,
        command=tuple(about["command"]),
        threads=about["threads"],
    )


def read_recipe(name: str) -> Recipe:
    """A recipe by its name, or from a recipe.json.

    Raises:
        UsageError: neither, or its values make no training.
    """
    if name in RECIPES:
        return RECIPES[name]()
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"no recipe {name!r}: there are {', '.join(RECIPES)}, or a recipe.json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UsageError(f"{path} is no readable JSON: {error}") from None
    values = content.get("recipe", content) if isinstance(content, dict) else None
    if not isinstance(values, dict):
        raise UsageError(f"{path} holds no recipe: expected an object with its fields")
    return Recipe.from_dict(values)


def recipe_of(options: argparse.Namespace, base: Recipe) -> Recipe:
    """`base` with what the options change.

    Raises:
        UsageError: an unknown field, or a value that makes no training.
    """
    if options.epochs is not None:
        base = base.for_epochs(options.epochs)
    changes: dict[str, Any] = {
        field: getattr(options, option)
        for option, field in _SHORTHANDS.items()
        if getattr(options, option) is not None
    }
    changes |= _settings(options.set, "--set")
    return Recipe.from_dict({**base.to_dict(), **changes})


_GIVEN_BY_THE_REST = {"image_size": "--set image_size=N", "num_classes": "the data's classes"}
"""Fields of the architecture that follow from something else."""


def model_settings(settings: list[str]) -> dict[str, Any]:
    """Fields of the architecture from FIELD=VALUE; tuples may be written 0,0,2,2 or [0, 0, 2, 2].

    Raises:
        UsageError: it is not FIELD=VALUE, or the field follows from something else.
    """
    values = _settings(settings, "--model-set")
    for name, instead in _GIVEN_BY_THE_REST.items():
        if name in values:
            raise UsageError(f"--model-set cannot give {name}; it comes from {instead}")
    return values


def _settings(settings: list[str], option: str) -> dict[str, Any]:
    """FIELD=VALUE: a JSON value, several with commas between them, or a bare word."""
    values: dict[str, Any] = {}
    for setting in settings:
        name, separator, text = setting.partition("=")
        if not separator:
            raise UsageError(f"{option} is {setting!r}; it must be FIELD=VALUE")
        for candidate in (text, f"[{text}]"):
            try:
                values[name] = json.loads(candidate)
                break
            except ValueError:
                values[name] = text  # a bare word, such as a precision; its field judges it
    return values
