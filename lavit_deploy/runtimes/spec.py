"""What every runtime says of itself: its name, what it needs, and how it opens an artifact.

A runtime is one `RuntimeSpec` beside its code, and one line in `lavit_deploy.runtimes.specs`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lavit_deploy.common.environment import Environment
from lavit_deploy.manifest import Artifact, Device
from lavit_deploy.runtimes.base import Runtime


@dataclass(frozen=True)
class Opening:
    """What a runtime is opened with.

    Attributes:
        file: the artifact's file, its hash verified.
        folder: the bundle that it belongs to, for files beside it.
        artifact: what the manifest says of it.
        picture: height, width and channels of the input.
        device: where to compute.
        threads: threads within an operator; None: the cores that this process may use.
        spin: let idle threads spin while they wait; off where other work shares the cores.
        cache: folder for what is compiled, for the next start; None: nowhere.
    """

    file: Path
    folder: Path
    artifact: Artifact
    picture: tuple[int, int, int]
    device: Device = "cpu"
    threads: int | None = None
    spin: bool = True
    cache: Path | None = None


def nothing_hinders(artifact: Artifact, here: Environment) -> str:  # noqa: ARG001 - an obstacle's signature
    """The obstacle of a runtime that runs wherever its package is installed."""
    return ""


@dataclass(frozen=True)
class RuntimeSpec:
    """A runtime that a server can run artifacts in.

    Attributes:
        name: as in the manifest.
        module: what must be importable.
        extra: the extra of lavit-deploy that brings it.
        distributions: names under which its package is installed, for its version.
        open: opens an artifact; raises `MissingDependencyError`, `BundleError` or `UsageError`.
        obstacle: why an artifact cannot run on this machine, as a phrase after its name; empty if
            it can.
    """

    name: str
    module: str
    extra: str
    distributions: tuple[str, ...]
    open: Callable[[Opening], Runtime]
    obstacle: Callable[[Artifact, Environment], str] = nothing_hinders
