"""A model as a front may show it: what it is called, and how it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ModelIdentity:
    """Which model answered.

    Attributes:
        name: what it is called here.
        version: its version under that name.
        artifact: the artifact that runs.
        checkpoint: first 12 hexadecimal digits of the checkpoint's SHA-256.
    """

    name: str
    version: str
    artifact: str
    checkpoint: str


@dataclass(frozen=True)
class ModelStatus(ModelIdentity):
    """One model that can be asked.

    Attributes:
        default: whether it answers requests that name no model.
        classes: how many it knows.
        bundle: the folder that it was opened from; for operators only.
        pending: pictures accepted and not yet answered.
        unready_reason: why it takes no pictures now; None while it does.
    """

    default: bool
    classes: int
    bundle: Path
    pending: int
    unready_reason: str | None
