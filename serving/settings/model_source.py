"""Which bundles to serve, and under which names and versions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import NamedTuple

from lavit_deploy.common.errors import UsageError

WORD = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
"""What a name or a version given by an operator looks like: it stands in URLs and labels."""


class ModelKey(NamedTuple):
    """What a model is asked by."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


@dataclass(frozen=True)
class ModelSource:
    """A bundle to serve.

    Attributes:
        path: folder written by `lavit-export`.
        name: what to call it; None: as its manifest does.
        version: its version; None: the first number that is free under its name, from 1.

    Raises:
        UsageError: a name or version that cannot stand in a URL.
    """

    path: Path
    name: str | None = None
    version: str | None = None

    def __post_init__(self) -> None:
        for what, given in (("name", self.name), ("version", self.version)):
            if given is not None and not re.fullmatch(WORD, given):
                raise UsageError(
                    f"a model's {what} must be letters, digits, '.', '_' and '-', "
                    f"given {given[:100]!r}"
                )

    @classmethod
    def parse(cls, text: str) -> ModelSource:
        """A source from `NAME[:VERSION]=PATH`.

        Raises:
            UsageError: it is not of that form.
        """
        key, separator, path = text.partition("=")
        name, colon, version = key.partition(":")
        if not separator or not path:
            raise UsageError(f"--model must be NAME[:VERSION]=PATH, given {text!r}")
        return cls(Path(path), name, version if colon else None)


def keys_of(named: Iterable[tuple[ModelSource, str]]) -> list[ModelKey]:
    """Names and versions of models.

    Args:
        named: each model's source and the name in its manifest, the default model first.

    Raises:
        UsageError: two have the same name and version.
    """
    models = [(source.name or name, source) for source, name in named]
    taken: dict[ModelKey, ModelSource] = {}
    for name, source in models:
        if source.version is not None:
            key = ModelKey(name, source.version)
            if key in taken:
                raise UsageError(f"{taken[key].path} and {source.path} are both {key}")
            taken[key] = source
    keys = []
    for name, source in models:
        key = ModelKey(name, source.version) if source.version else free_key(name, taken)
        taken[key] = source
        keys.append(key)
    return keys


def free_key(name: str, taken: Iterable[ModelKey]) -> ModelKey:
    """The name with the first number, from 1, that is not among `taken`."""
    taken = set(taken)
    return next(key for number in count(1) if (key := ModelKey(name, str(number))) not in taken)
