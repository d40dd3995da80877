"""Which artifact of a bundle to run here: the fastest that is accurate enough, or the one named."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.bundle.first_run import was_run
from lavit_deploy.common.environment import Environment
from lavit_deploy.common.errors import BundleError, ParityError
from lavit_deploy.manifest import Artifact, Device
from lavit_deploy.runtimes.specs import find_spec, is_for_servers


@dataclass(frozen=True)
class Criteria:
    """What the user asks for.

    Attributes:
        artifact: name of an artifact, or "auto".
        runtime: name of a runtime, or "auto".
        device: where to compute.
        agreement: smallest top-1 agreement with the float32 model, 0 to 1.
        unverified: also take engines that were never run; for who is about to verify them.
    """

    artifact: str = "auto"
    runtime: str = "auto"
    device: Device = "cpu"
    agreement: float = 0.99
    unverified: bool = False


@dataclass(frozen=True)
class Selection:
    """The artifact to run.

    Attributes:
        artifact: what was chosen.
        reason: why, as a phrase.
        notes: what the user should know besides, as sentences.
    """

    artifact: Artifact
    reason: str
    notes: tuple[str, ...]


def select(bundle: Bundle, criteria: Criteria, here: Environment | None = None) -> Selection:
    """Choose an artifact.

    Args:
        bundle: an opened bundle.
        criteria: what is asked for.
        here: this machine; default: ask it.

    Raises:
        BundleError: nothing of that name, runtime or device, or its runtime is not installed.
        ParityError: it, or everything that could run, failed parity or agrees too little.
    """
    here = here or Environment.here()
    manifest = bundle.manifest
    if criteria.artifact != "auto":
        artifact = bundle.artifact(criteria.artifact)
        why_not = obstacle(artifact, criteria, here)
        if why_not:
            raise (ParityError if not artifact.passed else BundleError)(
                f"{bundle.path}: {artifact.name} {why_not}"
            )
        return Selection(artifact, "named", _foreign(bundle, here))
    obstacles = {item.name: obstacle(item, criteria, here) for item in manifest.artifacts}
    able = [item for item in manifest.artifacts if not obstacles[item.name]]
    if not able:
        reasons = "; ".join(f"{name} {why_not}" for name, why_not in obstacles.items())
        failed = any(not item.passed for item in manifest.artifacts)
        raise (ParityError if failed else BundleError)(
            f"{bundle.path} has nothing to run here: {reasons or 'no artifacts'}"
        )
    best = max(able, key=lambda item: item.best_rate)
    rate = f"{best.best_rate:.0f} images/s" if best.timings else "not timed"
    rank = "the only one that can run here" if len(able) == 1 else f"fastest of {len(able)}"
    passed_over = tuple(
        f"{item.name} is faster ({item.best_rate:.0f} images/s) but {obstacles[item.name]}"
        for item in manifest.artifacts
        # What is for a phone was never meant to run here.
        if is_for_servers(item.runtime) and obstacles[item.name] and item.best_rate > best.best_rate
    )
    return Selection(best, f"{rank}: {rate}", passed_over + _foreign(bundle, here))


def obstacle(artifact: Artifact, criteria: Criteria, here: Environment) -> str:
    """Why an artifact cannot be taken here, as a phrase after its name; empty if it can."""
    agreement = min(item.top1_agreement for item in artifact.parities)
    failure = artifact.failure.reason if artifact.failure else ""
    checks = (
        (not artifact.passed, f"failed parity ({failure})"),
        (
            criteria.device not in artifact.devices,
            f"cannot run on {criteria.device}, only on {', '.join(artifact.devices)}",
        ),
        (
            criteria.runtime not in {"auto", artifact.runtime},
            f"is for {artifact.runtime}, not {criteria.runtime}",
        ),
        (bool(unfit := _unfit(artifact, here)), unfit),
        (
            not criteria.unverified and not was_run(artifact),
            "was built without a GPU and never run: lavit-serve --measure runs and compares it",
        ),
        (
            agreement < criteria.agreement,
            (
                f"agrees with float32 in {agreement:.1%} of the pictures, "
                f"{criteria.agreement:.1%} are asked for"
            ),
        ),
    )
    return next((text for applies, text in checks if applies), "")


def _unfit(artifact: Artifact, here: Environment) -> str:
    """What keeps an artifact's runtime from running it here, as a phrase; empty if nothing does."""
    spec = find_spec(artifact.runtime)
    if spec is None:
        return f"is for {artifact.runtime} on a phone or a board, not for a server"
    if importlib.util.find_spec(spec.module) is None:
        return f'needs {spec.module}: pip install "lavit-deploy[{spec.extra}]"'
    return spec.obstacle(artifact, here)


def _foreign(bundle: Bundle, here: Environment) -> tuple[str, ...]:
    """A note if the bundle's latencies were measured on another processor."""
    there = bundle.manifest.timed_on or bundle.manifest.environment
    if (there.cpu, there.cores) == (here.cpu, here.cores):
        return ()
    where = f"{there.cpu}, {there.cores} cores; here {here.cpu}, {here.cores} cores"
    return (
        (
            f"latencies were measured on another machine ({where}): "
            "lavit-serve --measure measures again"
        ),
    )
