"""Every model family, one line each, and how one is found.

Installed packages add theirs as entry points of the group `lavit_deploy.families`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lavit_deploy.common.errors import ConfigError
from lavit_deploy.common.plugins import installed
from lavit_deploy.families.family import Configuration, ModelFamily
from lavit_deploy.families.lavit import LAVIT

if TYPE_CHECKING:
    from torch import nn

Family = ModelFamily[Any]
"""A family, whatever its configuration's type."""

FAMILIES: tuple[Family, ...] = (LAVIT,)

DEFAULT = LAVIT.name
"""The family of checkpoints and manifests that name none: they are older than the choice."""

GROUP = "lavit_deploy.families"
"""Entry points by which installed packages add families."""


def all_families() -> Iterator[Family]:
    """This project's families, then those that installed packages add, which takes a look."""
    yield from FAMILIES
    yield from installed(GROUP, ModelFamily)  # type: ignore[type-abstract] # of instances


def find_family(name: str) -> Family:
    """The family of a name.

    Raises:
        ConfigError: there is none; lists those there are.
    """
    for family in all_families():
        if family.name == name:
            return family
    known = ", ".join(family.name for family in all_families())
    raise ConfigError(f"no model family {name!r}; there are {known}")


def family_of(config: Configuration) -> Family:
    """The family that a configuration is of.

    Raises:
        ConfigError: none has configurations of that type.
    """
    for family in all_families():
        if isinstance(config, family.config_type):
            return family
    raise ConfigError(f"no model family has configurations of type {type(config).__name__}")


def config_of(model: nn.Module) -> Configuration:
    """The configuration that a model was built from.

    Raises:
        TypeError: the model keeps none as `config`.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, Configuration):
        raise TypeError(f"a {type(model).__name__} keeps no configuration as `config`")
    return config


def preset_names() -> tuple[str, ...]:
    """The presets of every family."""
    return tuple(name for family in all_families() for name in family.presets)


def family_of_preset(name: str) -> Family:
    """The family that has a preset.

    Raises:
        ConfigError: none has; lists the presets there are.
    """
    for family in all_families():
        if name in family.presets:
            return family
    raise ConfigError(f"no preset {name!r}; there are {', '.join(preset_names())}")
