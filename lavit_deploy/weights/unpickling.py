"""Pickles of PyTorch, read without running what they ask for.

`torch.load(weights_only=True)` refuses a file for one object that is no tensor, such as the
configuration of the training beside the weights. Here such an object gets a stand-in: PyTorch's own
restricted unpickler is told that the name it asks for is safe and means a class of this module,
whose instances keep what they are given and do nothing. Nothing of the file's is ever imported.
"""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lavit_deploy.common.errors import CheckpointError

_NO_CHECKPOINT = (
    "{path} is damaged or not a PyTorch checkpoint: expected a file of torch.save, or .safetensors"
)
_ASKED_FOR = re.compile(r"GLOBAL (\S+)")
_FILLED = re.compile(r"(Can only (?:SETITEM|append|extend)).*<class '[\w.]*StandIn(\d+)'>")
"""How PyTorch refuses to fill an object that is neither a dictionary nor a list."""

_PLAIN = re.compile(r"[biufcSU]\d{1,9}")
"""Codes of NumPy's types of numbers and texts."""

_MOST_ATTEMPTS = 100
"""Each gives one more name a stand-in, or another form; files of the old format say one at a
time."""

Global = tuple[Callable[..., Any], str]
"""What a name in a pickle means, and the name."""


class StandIn:
    """An object that was not created: it takes everything and does nothing.

    Attributes:
        state: what would have become its attributes, where that was given.
    """

    state: object = None

    def __new__(cls, *_: object, **__: object) -> Any:  # noqa: ANN401 - see `_form_of`
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.state = state


class _AsDictionary(StandIn):
    """For classes that are dictionaries: the unpickler fills only PyTorch's and Python's own."""

    def __new__(cls, *_: object, **__: object) -> Any:  # noqa: ANN401 - another class
        return OrderedDict()


class _AsList(StandIn):
    """For classes that are lists."""

    def __new__(cls, *_: object, **__: object) -> Any:  # noqa: ANN401 - another class
        return []


@dataclass(frozen=True)
class Unpickled:
    """What a file holds.

    Attributes:
        content: of dictionaries, lists, tensors, plain values and `StandIn`s.
        dropped: names of the classes and functions that were not called, sorted.
    """

    content: object
    dropped: tuple[str, ...]


def unpickle(path: Path) -> Unpickled:
    """Read a file of `torch.save`, tensors on the CPU.

    Raises:
        CheckpointError: it is damaged, no such file, or its tensors cannot be had without running
            its code.
    """
    forms = dict.fromkeys(_names_in(path), StandIn)
    for _ in range(_MOST_ATTEMPTS):
        names = sorted(forms)
        meant: list[Callable[..., Any] | Global] = [
            *_harmless(),
            *(
                (type(f"StandIn{index}", (forms[name],), {}), name)
                for index, name in enumerate(names)
            ),
        ]
        try:
            with (
                torch.serialization.safe_globals(meant),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")  # of old types, to who wrote the file
                content = torch.load(path, map_location="cpu", weights_only=True)
            return Unpickled(content, tuple(names))
        except pickle.UnpicklingError as error:
            if not _adapt(forms, names, str(error)):
                raise _refusal(path, names, error) from None
        except RuntimeError as error:
            raise _refusal(path, names, error) from None
        # What the unpickler does with bytes that are no pickle depends on the bytes.
        except (EOFError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise _refusal(path, names, error) from None
    raise CheckpointError(f"{path} asks for more than {_MOST_ATTEMPTS} kinds of objects")


class _NumberType(StandIn):
    """NumPy's type of a number or a text, by its code: `numpy.dtype` takes more than that."""

    def __init__(self, code: str = "", *_: object) -> None:
        super().__init__()
        self._code = code
        self._order = "="

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in {"<", ">", "|"}:
            self._order = state[1]

    def read(self, data: bytes) -> Any:  # noqa: ANN401 - any of NumPy's scalars
        """The number or text of some bytes; a stand-in for what is neither, such as a record."""
        if not _PLAIN.fullmatch(self._code):
            return StandIn()
        return np.frombuffer(data, dtype=self._order + self._code)[0]


def _number(kind: _NumberType, data: bytes) -> Any:  # noqa: ANN401 - any of NumPy's scalars
    """A NumPy scalar, as its pickle describes it."""
    return kind.read(data)


def _harmless() -> list[Global]:
    """Names of plain values, which mean what they say."""
    return [
        (argparse.Namespace, "argparse.Namespace"),
        (frozenset, "builtins.frozenset"),
        (_NumberType, "numpy.dtype"),
        (_number, "numpy._core.multiarray.scalar"),
        (_number, "numpy.core.multiarray.scalar"),  # of NumPy 1
    ]


def _names_in(path: Path) -> list[str]:
    """The names that a file asks for and that mean nothing safe; of the old format none."""
    try:
        with torch.serialization.safe_globals([*_harmless()]):
            return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    # Whatever is wrong with the file is said when it is read.
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError):
        return []


def _adapt(forms: dict[str, type[StandIn]], names: list[str], message: str) -> bool:
    """Give one more name a stand-in, or one that is filled another form; whether there was one."""
    if filled := _FILLED.search(message):
        name = names[int(filled[2])]
        form = _AsDictionary if "SETITEM" in filled[1] else _AsList
        if forms[name] is not StandIn:
            return False
        forms[name] = form
        return True
    asked = _ASKED_FOR.search(message)
    if asked is None or "blocked" in message:
        return False
    name = asked[1] if "." in asked[1] else f"builtins.{asked[1]}"
    if name in forms:
        return False
    forms[name] = StandIn
    return True


def _refusal(path: Path, names: list[str], error: Exception) -> CheckpointError:
    """Why a file cannot be read, for its user."""
    message = str(error)
    if asked := _ASKED_FOR.search(message):
        return wants_to_create(path, asked[1])
    if "TorchScript" in message:
        return CheckpointError(
            f"{path} is a TorchScript program, which is code: save the model's state_dict"
        )
    if "Unsupported operand" in message:
        return CheckpointError(
            f"{path} is a pickle of another protocol than torch.save's own, which cannot be read "
            "without trusting it: save its state_dict by torch.save as it is, or use safetensors"
        )
    if names:
        return CheckpointError(
            f"{path} holds tensors that need {', '.join(names)}: save plain tensors in its place"
        )
    return CheckpointError(_NO_CHECKPOINT.format(path=path))


def wants_to_create(path: Path, name: str) -> CheckpointError:
    """The refusal of a file that asks for an object and holds no weights beside it."""
    return CheckpointError(
        f"{path} is a pickle that wants to create {name}: refused, because that can run any code. "
        "Save its state_dict alone, or use safetensors"
    )
