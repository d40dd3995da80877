"""From an artifact of a bundle to the runtime that runs it."""

from __future__ import annotations

from pathlib import Path

from lavit_deploy.bundle import Bundle
from lavit_deploy.manifest import Artifact, Device
from lavit_deploy.runtimes.base import Runtime
from lavit_deploy.runtimes.onnxruntime import OnnxRuntime
from lavit_deploy.runtimes.openvino import OpenVinoRuntime


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
        cache: folder where OpenVINO keeps compiled models for the next start; default: nowhere.

    Raises:
        BundleError: the file is missing, altered, or cannot be opened.
        MissingDependencyError: its runtime is not installed.
        UsageError: its runtime does not have `device`.
    """
    file = bundle.verified_file(artifact)
    if artifact.runtime == "openvino":
        return OpenVinoRuntime(
            file,
            max_batch=artifact.batch.maximum,
            precision=artifact.precision_requested,
            threads=threads,
            cache=cache,
        )
    return OnnxRuntime(
        file, max_batch=artifact.batch.maximum, device=device, threads=threads, spin=spin
    )
