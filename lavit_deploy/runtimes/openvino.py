"""OpenVINO on a CPU: the faster runtime where it is installed, above all in bfloat16."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lavit_deploy.environment import available_cores
from lavit_deploy.errors import BundleError, InferenceError, MissingDependencyError, UsageError
from lavit_deploy.manifest import Device, Precision
from lavit_deploy.preprocess import Pixels
from lavit_deploy.runtimes.base import Logits, Runtime, TensorSpec

if TYPE_CHECKING:
    import openvino

COMPUTE_LAYERS = ("FullyConnected", "MatMul", "Convolution", "BrgemmConv")
"""Layers of a compiled graph whose precision decides what it computes in."""

_HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_FOUND = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}


def import_openvino() -> openvino:
    """The openvino package.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import openvino as ov
    except ImportError:
        raise MissingDependencyError(
            "openvino", extra="openvino", purpose="run OpenVINO artifacts"
        ) from None
    return ov


def cpu_precisions() -> tuple[Precision, ...]:
    """Precisions that this CPU computes natively in OpenVINO, float32 first."""
    capabilities = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("fp32", "bf16") if "BF16" in capabilities else ("fp32",)


def precision_config(precision: Precision) -> dict[str, Any]:
    """OpenVINO's configuration for a precision; by itself it takes bfloat16 where it can."""
    return {"INFERENCE_PRECISION_HINT": _HINTS[precision]}


class OpenVinoRuntime(Runtime):
    """One compiled OpenVINO model with input uint8 [B, H, W, 3].

    Args:
        file: an IR (`.xml`, its `.bin` beside it) or an ONNX file.
        max_batch: largest batch to accept.
        precision: what to compute in.
        threads: threads; default: the cores this process may use.

    Raises:
        BundleError: the file is no model, or not one with that input.
        MissingDependencyError: openvino is not installed.
        UsageError: the CPU does not compute in `precision`.
    """

    name = "openvino"
    device: Device = "cpu"

    def __init__(
        self,
        file: Path,
        *,
        max_batch: int,
        precision: Precision = "fp32",
        threads: int | None = None,
    ) -> None:
        ov = import_openvino()
        native = cpu_precisions()
        if precision not in native:
            raise UsageError(
                f"this CPU does not compute in {precision} with OpenVINO, "
                f"only in {', '.join(native)}"
            )
        config = precision_config(precision) | {
            "INFERENCE_NUM_THREADS": threads or available_cores(),
            "PERFORMANCE_HINT": "LATENCY",  # one batch at a time, on all threads
        }
        try:
            compiled = ov.Core().compile_model(file, "CPU", config)
        except RuntimeError as error:
            raise BundleError(f"openvino cannot open {file}: {error}") from None
        (shape,) = [port.get_partial_shape() for port in compiled.inputs[:1]]
        kind = compiled.inputs[0].get_element_type().get_type_name()
        if len(compiled.inputs) != 1 or kind != "u8" or len(shape) != len("BHWC"):
            raise BundleError(f"{file} takes {kind} {shape}; expected one uint8 [B, H, W, 3]")
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self.max_batch = max_batch
        self.input = TensorSpec("uint8", (None, *(size.get_length() for size in list(shape)[1:])))

    def compute_types(self) -> Counter[str]:
        """Number of matrix products and convolutions of the compiled graph by precision."""
        found: Counter[str] = Counter()
        for layer in self._compiled.get_runtime_model().get_ordered_ops():
            info = layer.get_rt_info()
            if info["layerType"].astype(str) in COMPUTE_LAYERS:
                precision = info["runtimePrecision"].astype(str)
                found[_FOUND.get(precision, precision)] += 1
        return found

    def _infer(self, images: Pixels) -> Logits:
        if self._request is None:
            raise InferenceError("this OpenVINO model is closed")
        try:
            results = self._request.infer([np.ascontiguousarray(images)])
        except RuntimeError as error:
            raise InferenceError(f"openvino failed: {error}") from error
        return results[0].copy()  # the request reuses its output buffer

    def close(self) -> None:
        self._request = None
        self._compiled = None
