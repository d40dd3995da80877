"""Values of configurations as checkpoints and JSON hold them, read into plain Python.

A number may come as text or as a NumPy scalar; nothing is rounded and nothing is guessed.
"""

from __future__ import annotations

import math
import operator
from contextlib import suppress
from typing import SupportsFloat, SupportsIndex

from lavit_deploy.common.errors import ConfigError

_SWITCHES = {"true": True, "false": False}


def whole(name: str, value: object, least: int) -> int:
    """A whole number of at least `least`.

    Raises:
        ConfigError: it is something else, or less.
    """
    found = _index(value)
    if found is None or found < least:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number of at least {least}")
    return found


def wholes(name: str, value: object, count: int, least: int) -> tuple[int, ...]:
    """So many whole numbers of at least `least`.

    Raises:
        ConfigError: there are more or fewer, or one is something else.
    """
    found = [_index(item) for item in value] if isinstance(value, list | tuple) else []
    kept = tuple(item for item in found if item is not None and item >= least)
    if len(kept) != len(found) or len(kept) != count:
        raise ConfigError(
            f"{name} is {value!r}; it must be {count} whole numbers of at least {least}"
        )
    return kept


def number(name: str, value: object) -> float:
    """A number, neither NaN nor infinite.

    Raises:
        ConfigError: it is something else.
    """
    found = math.nan
    if isinstance(value, str | SupportsFloat) and not isinstance(value, bool):
        with suppress(ValueError, TypeError, OverflowError):  # said below
            found = float(value)
    if not math.isfinite(found):
        raise ConfigError(f"{name} is {value!r}; it must be a number")
    return found


def switch(name: str, value: object) -> bool:
    """True or false.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(value, str) and value.lower() in _SWITCHES:
        return _SWITCHES[value.lower()]
    if value in (True, False):  # 1 and 0 too, and NumPy's own kind
        return bool(value)
    raise ConfigError(f"{name} is {value!r}; it must be true or false")


def _index(value: object) -> int | None:
    """The whole number that a value is; None where it is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, SupportsIndex):
        return operator.index(value)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    return None
