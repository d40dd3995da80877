"""The interface of a target: it says what it will build here, then builds it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lavit_deploy.export.judging.context import BuildContext
from lavit_deploy.manifest import Artifact

Progress = Callable[[str], None]
"""Told the name of each step as it begins."""


@dataclass(frozen=True)
class Step:
    """One line of the plan.

    Attributes:
        what: the artifact or check.
        action: "build", "check" or "skip".
        why: what it is for, or why it is left out.
    """

    what: str
    action: Literal["build", "check", "skip"]
    why: str


@dataclass(frozen=True)
class NotBuilt:
    """An artifact whose conversion failed, without ending the export.

    Attributes:
        name: of the artifact.
        reason: what its tools said.
    """

    name: str
    reason: str


class Target(ABC):
    """Artifacts of one format."""

    @property
    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """Every step that `build` reports, in order."""

    @abstractmethod
    def build(
        self, context: BuildContext, folder: Path, progress: Progress
    ) -> Iterator[Artifact | NotBuilt]:
        """Build every artifact into `folder`, and judge it.

        Args:
            context: the model, and what it is compared with.
            folder: the bundle that is being written.
            progress: told each of `labels` as it begins.

        Raises:
            ExportError: an artifact could not be built, and the export must not go on without it.
        """


@dataclass(frozen=True)
class Planned:
    """What one target will do.

    Attributes:
        steps: its lines of the plan.
        target: what builds; None if everything is skipped.
        extras: artifacts that nobody asked for by name: one that fails parity is reported and
            never served, but the export is a success without it.
    """

    steps: tuple[Step, ...]
    target: Target | None = None
    extras: frozenset[str] = frozenset()
