"""From an artifact of a bundle to the runtime that runs it."""

from __future__ import annotations

from pathlib import Path

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.common.errors import BundleError
from lavit_deploy.manifest import Artifact, Device
from lavit_deploy.runtimes.aoti import AotiRuntime
from lavit_deploy.runtimes.base import Runtime
from lavit_deploy.runtimes.onnxruntime import OnnxRuntime, TensorRTProvider
from lavit_deploy.runtimes.openvino import OpenVinoRuntime
from lavit_deploy.runtimes.tensorrt import TensorRTRuntime


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
        BundleError: the file is missing, altered, or cannot be opened.
        MissingDependencyError: its runtime is not installed.
        UsageError: its runtime does not have `device`.
    """
    file = bundle.verified_file(artifact)
    if artifact.runtime == "openvino":
        return OpenVinoRuntime(
            file,
            max_batch=artifact.batch.maximum,
            precision=(
                artifact.quantization.rest
                if artifact.quantization is not None
                else artifact.precision_requested
            ),
            threads=threads,
            cache=cache,
        )
    if artifact.runtime in {"tensorrt", "tensorrt_rtx"}:
        return TensorRTRuntime(
            file,
            flavour=artifact.runtime,
            max_batch=artifact.batch.maximum,
            plugin=bundle.path / artifact.plugin if artifact.plugin else None,
            weights=_weights_of(bundle, artifact),
            host_code=artifact.engine is not None and artifact.engine.version_compatible,
            cache=cache,
        )
    if artifact.runtime == "aoti":
        return AotiRuntime(
            file,
            max_batch=artifact.batch.maximum,
            image_size=bundle.manifest.config.image_size,
            device=device,
            threads=threads,
        )
    return OnnxRuntime(
        file,
        max_batch=artifact.batch.maximum,
        device=device,
        threads=threads,
        spin=spin,
        tensorrt=_provider_options(artifact, cache),
    )


def _weights_of(bundle: Bundle, artifact: Artifact) -> Path | None:
    """The ONNX file that fills in the weights of a stripped engine."""
    if artifact.engine is None or not artifact.engine.stripped:
        return None
    for extra in artifact.extra_files:
        if extra.file.endswith(".onnx"):
            return bundle.path / extra.file
    raise BundleError(f"{artifact.name} holds no weights, and the manifest names no ONNX file")


def _provider_options(artifact: Artifact, cache: Path | None) -> TensorRTProvider | None:
    if artifact.runtime != "onnxruntime_tensorrt":
        return None
    return TensorRTProvider(artifact.batch, cache)
