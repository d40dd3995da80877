"""What a command line asks to be trained: data, architecture and recipe, new or resumed."""

from __future__ import annotations

import argparse
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavit_deploy.common.environment import command_line
from lavit_deploy.common.errors import UsageError
from lavit_deploy.datasets import DIGITS
from lavit_deploy.training.recipe import RECIPES, Recipe

_SHORTHANDS = {"batch_size": "batch_size", "lr": "base_lr", "dp_weight": "dp_weight"}
_SHORTHANDS |= {"precision": "precision", "seed": "seed"}


@dataclass(frozen=True)
class Plan:
    """One training.

    Attributes:
        data: what `open_data` takes.
        arch: name of the preset.
        init_from_pvt: checkpoint of an official PVT v1 to begin from, or None.
        recipe: how to train.
        command: the command line that began it.
        threads: CPU threads of each process, None for as many as there are cores.
    """

    data: str
    arch: str
    init_from_pvt: Path | None
    recipe: Recipe
    command: tuple[str, ...]
    threads: int | None

    def about(self) -> dict[str, Any]:
        """What recipe.json and the training state say beside the recipe."""
        return {
            "command": list(self.command),
            "data": self.data,
            "arch": self.arch,
            "init_from_pvt": str(self.init_from_pvt) if self.init_from_pvt else None,
            "threads": self.threads,
        }


def new_plan(options: argparse.Namespace) -> Plan:
    """The training that the options describe.

    Raises:
        UsageError: --data or --arch is missing, or the recipe makes no training.
    """
    missing = [f"--{name}" for name in ("data", "arch") if getattr(options, name) is None]
    if missing:
        raise UsageError(f"{' and '.join(missing)} needed (unless --resume continues a training)")
    base = DIGITS if options.data == DIGITS else "imagenet"
    return Plan(
        data=options.data,
        arch=options.arch,
        init_from_pvt=options.init_from_pvt,
        recipe=recipe_of(options, read_recipe(options.recipe or base)),
        command=tuple(command_line()),
        threads=options.threads,
    )


def resumed_plan(options: argparse.Namespace, state: dict[str, Any]) -> Plan:
    """The training that a state is of; options may repeat what it says, but not change it.

    Raises:
        UsageError: an option would change the training's result.
    """
    about, stored = state["about"], Recipe.from_dict(state["recipe"])
    if options.arch not in {None, about["arch"]}:
        raise UsageError(f"the training to resume is of {about['arch']}, --arch is {options.arch}")
    if options.init_from_pvt is not None and str(options.init_from_pvt) != about["init_from_pvt"]:
        raise UsageError("--init-from-pvt is for a new training, this one has its weights")
    asked = recipe_of(options, read_recipe(options.recipe) if options.recipe else stored)
    changed = [
        f"{field.name} {getattr(stored, field.name)} -> {getattr(asked, field.name)}"
        for field in dataclasses.fields(Recipe)
        if getattr(stored, field.name) != getattr(asked, field.name)
    ]
    if changed:
        raise UsageError(f"--resume cannot change the recipe: {', '.join(changed)}")
    return Plan(
        data=options.data or about["data"],
        arch=about["arch"],
        init_from_pvt=Path(about["init_from_pvt"]) if about["init_from_pvt"] else None,
        recipe=stored,
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
    for setting in options.set:
        name, separator, text = setting.partition("=")
        if not separator:
            raise UsageError(f"--set is {setting!r}; it must be FIELD=VALUE")
        try:
            changes[name] = json.loads(text)
        except ValueError:
            changes[name] = text  # a bare word, such as a precision; the recipe judges it
    return Recipe.from_dict({**base.to_dict(), **changes})
