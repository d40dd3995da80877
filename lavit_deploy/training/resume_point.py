"""The whole state of a training, as last.pth holds it.

The file is also a checkpoint that `lavit_deploy.checkpoint.load_checkpoint` reads: `model`,
`model_ema`, `config`, `preprocess` and `classes` are where it looks for them.
"""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lavit_deploy.checkpoint import write_pickle
from lavit_deploy.common.atomic_files import atomic_path
from lavit_deploy.common.errors import CheckpointError

FORMAT = 1
"""Version of the file; a reader refuses another."""

_KEYS = frozenset(
    {
        "format",
        "recipe",
        "data",
        "config",
        "preprocess",
        "classes",
        "position",
        "sums",
        "history",
        "best_accuracy",
        "model",
        "model_ema",
        "optimizer",
        "scheduler",
        "scaler",
    }
)


class ResumePoint(NamedTuple):
    """How far a training has come.

    Attributes:
        epoch: 0-based epoch that is under way.
        step: optimiser steps done in it. When all are done, the validation is what comes next.
    """

    epoch: int
    step: int


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a training state atomically: an interrupted write leaves the one before."""
    with atomic_path(path) as temporary:
        write_pickle({"format": FORMAT, **state}, temporary)


def keep_as(path: Path, other: Path) -> None:
    """Give a state a second name, atomically, without a second copy where the disk can do so."""
    with atomic_path(other) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(path, temporary)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, temporary)


def load_state(path: Path) -> dict[str, Any]:
    """Read a training state.

    Raises:
        CheckpointError: missing, damaged, or not a training state of this version.
    """
    if not path.is_file():
        raise CheckpointError(f"no training to resume: there is no {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError):
        raise CheckpointError(f"{path} is damaged or no training state") from None
    if not isinstance(state, dict) or "format" not in state:
        raise CheckpointError(f"{path} is a checkpoint without a training state: nothing to resume")
    if state["format"] != FORMAT:
        raise CheckpointError(
            f"{path} is a training state of format {state['format']!r}; this version reads {FORMAT}"
        )
    missing = sorted(_KEYS - set(state))
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}: it is no whole training state")
    return state
