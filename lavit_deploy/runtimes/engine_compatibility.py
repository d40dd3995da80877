"""Whether an engine can run here, found out before it is loaded, one plain phrase a mismatch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

from lavit_deploy.common.gpu import Gpu, covers, find_gpu
from lavit_deploy.manifest import Artifact, Engine

_MARGIN = 1.5
"""Device memory wanted free, over the engine's size: weights, activations and two contexts."""


def engine_obstacle(artifact: Artifact, distributions: Sequence[str]) -> str:
    """Why an engine cannot run here, as a phrase after its name; empty if it can, or is none.

    The GPU is the one of this machine; `mismatch` judges another.

    Args:
        artifact: the artifact.
        distributions: names under which its library is installed.
    """
    engine = artifact.engine
    if engine is None:
        return ""
    gpu = find_gpu()
    if gpu is None:
        return "needs an NVIDIA GPU, and there is none here (nvidia-smi finds none)"
    return mismatch(artifact, engine, gpu, installed_version(distributions))


def mismatch(artifact: Artifact, engine: Engine, gpu: Gpu, version: str | None) -> str:
    """Compare what an engine was built for with a machine.

    Args:
        artifact: the artifact.
        engine: how it was built.
        gpu: the machine's GPU.
        version: the installed version of its library; None where unknown.
    """
    wanted_mib = artifact.total_bytes * _MARGIN / 2**20
    checks = (
        (
            version is not None and not _fits(artifact.runtime_version, version, engine),
            (
                f"was built by {artifact.runtime} {artifact.runtime_version}; {version} is "
                f"installed: export again, or install {artifact.runtime_version}"
            ),
        ),
        (
            not covers(engine.compute_capabilities, gpu),
            (
                f"was built for compute capability {', '.join(engine.compute_capabilities)}; "
                f"{gpu.name} has {gpu.capability}: export again on it, or with "
                f"--compute-capability {gpu.capability}"
            ),
        ),
        (
            gpu.free_mib < wanted_mib,
            f"wants about {wanted_mib:.0f} MiB of GPU memory; {gpu.name} has {gpu.free_mib} free",
        ),
    )
    return next((text for applies, text in checks if applies), "")


def installed_version(distributions: Sequence[str]) -> str | None:
    """Version of the first of these packages that is installed; None if none is."""
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _fits(built: str, installed: str, engine: Engine) -> bool:
    """Engines load in the version that wrote them; version-compatible ones in later ones too."""
    if not engine.version_compatible:
        return built == installed
    return _numbers(installed) >= _numbers(built)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
