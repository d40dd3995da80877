"""From an artifact of a bundle to the runtime that runs it."""

from __future__ import annotations

from pathlib import Path

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.common.errors import BundleError
from lavit_deploy.manifest import Artifact, Device
from lavit_deploy.runtimes.base import Runtime
from lavit_deploy.runtimes.spec import Opening
from lavit_deploy.runtimes.specs import find_spec


def open_artifact(
    bundle: Bundle,
    artifact: Artifact,
    *,
    device: Device = "cpu",
    threads: int | None = None,
    spin: bool = True,
    cache: Path | None = None,
) -> Runtime:
    """Verify an artifact's bytes and open it in its runtime.

    Args:
        bundle: the bundle it belongs to.
        artifact: one of the manifest's artifacts.
        device: where to compute.
        threads: threads within an operator; default: the cores this process may use.
        spin: let ONNX Runtime's idle threads spin; off where other work shares the cores.
        cache: folder where OpenVINO, ONNX Runtime's TensorRT provider and TensorRT-RTX keep what
            they compile for the next start; default: nowhere.

    Raises:
        BundleError: the file is missing, altered, cannot be opened, or is for no server.
        MissingDependencyError: its runtime is not installed.
        UsageError: its runtime does not have `device`.
    """
    spec = find_spec(artifact.runtime)
    if spec is None:
        raise BundleError(f"{artifact.name} is for {artifact.runtime}, which runs on no server")
    return spec.open(
        Opening(
            bundle.verified_file(artifact),
            folder=bundle.path,
            artifact=artifact,
            picture=bundle.manifest.preprocess.shape,
            device=device,
            threads=threads,
            spin=spin,
            cache=cache,
        )
    )
