"""ONNX Runtime, on a CPU or a CUDA GPU: the embedded default."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lavit_deploy.common.environment import available_cores
from lavit_deploy.common.errors import (
    BundleError,
    InferenceError,
    MissingDependencyError,
    UsageError,
)
from lavit_deploy.manifest import BatchRange, Device
from lavit_deploy.preprocess import Pixels
from lavit_deploy.runtimes.base import Logits, Runtime, TensorSpec
from lavit_deploy.runtimes.spec import Opening, RuntimeSpec

if TYPE_CHECKING:
    import onnxruntime

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_TENSORRT = "TensorrtExecutionProvider"


@dataclass(frozen=True)
class TensorRTProvider:
    """ONNX Runtime's TensorRT execution provider: engines built from the graph when it is opened.

    Attributes:
        batch: smallest, optimal and largest batch of the engines' profile.
        cache: folder where built engines and kernel timings are kept for the next start, which
            then takes seconds instead of minutes; None to build on every start.
    """

    batch: BatchRange
    cache: Path | None = None

    def options(self, name: str, sizes: Sequence[int]) -> dict[str, str]:
        """The provider's options.

        Args:
            name: of the graph's input.
            sizes: its shape without the batch.
        """

        def shape(batch: int) -> str:
            return f"{name}:" + "x".join(map(str, (batch, *sizes)))

        options = {
            "trt_profile_min_shapes": shape(self.batch.minimum),
            "trt_profile_opt_shapes": shape(self.batch.optimum),
            "trt_profile_max_shapes": shape(self.batch.maximum),
            "trt_cuda_graph_enable": "0",  # its graphs want inputs at fixed addresses
        }
        if self.cache is not None:
            options |= {
                "trt_engine_cache_enable": "1",
                "trt_engine_cache_path": str(self.cache),
                "trt_timing_cache_enable": "1",
                "trt_timing_cache_path": str(self.cache),
            }
        return options


def import_onnxruntime() -> onnxruntime:
    """The onnxruntime package, its telemetry off.

    Raises:
        MissingDependencyError: it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime as ort
    except ImportError:
        raise MissingDependencyError(
            "onnxruntime", extra="serve", purpose="run ONNX artifacts"
        ) from None
    return ort


class OnnxRuntime(Runtime):
    """One ONNX Runtime session over an ONNX file with input uint8 [B, H, W, C].

    Args:
        file: the ONNX file.
        max_batch: largest batch to accept.
        device: "cpu" or "cuda".
        threads: threads within an operator; default: the cores this process may use.
        spin: let idle threads spin while they wait for the next operator. Faster when nothing else
            runs; with other work on the same cores, such as decoding, they only get in its way.
        tensorrt: run in the TensorRT execution provider, what it cannot take in CUDA; default: no.

    Raises:
        BundleError: the file is no ONNX model, or not one with that input and output.
        MissingDependencyError: onnxruntime is not installed.
        UsageError: the installed onnxruntime has no support for `device`.
    """

    name = "onnxruntime"

    def __init__(
        self,
        file: Path,
        *,
        max_batch: int,
        device: Device = "cpu",
        threads: int | None = None,
        spin: bool = True,
        tensorrt: TensorRTProvider | None = None,
    ) -> None:
        ort = import_onnxruntime()
        provider = _TENSORRT if tensorrt else _PROVIDERS[device]
        if provider not in ort.get_available_providers():
            raise UsageError(
                f"the installed onnxruntime has no {provider}: "
                'pip install "lavit-deploy[gpu]", or choose --device cpu'
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or available_cores()
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
        options.log_severity_level = 3  # errors only: its warnings are about its own choices
        try:
            providers = _providers(ort, file, device, tensorrt)
            self._session = ort.InferenceSession(str(file), options, providers=providers)
        except Exception as error:  # noqa: BLE001 - its errors have no base class of their own
            raise BundleError(f"onnxruntime cannot open {file}: {error}") from None
        if provider not in self._session.get_providers():
            # onnxruntime falls back to the CPU with no more than a line in its log.
            raise UsageError(f"onnxruntime could not start {provider}: is there an NVIDIA GPU?")
        self.device = device
        self._ort = ort
        self.max_batch = max_batch
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(uint8)" or len(inputs[0].shape) != 4:
            given = ", ".join(f"{item.name}: {item.type} {item.shape}" for item in inputs)
            raise BundleError(f"{file} takes ({given}); expected one uint8 [B, H, W, C]")
        self._input_name, self._output_name = inputs[0].name, outputs[0].name
        self.input = TensorSpec("uint8", (None, *inputs[0].shape[1:]))

    def _infer(self, images: Pixels) -> Logits:
        if self._session is None:
            raise InferenceError("this onnxruntime session is closed")
        feed = {self._input_name: np.ascontiguousarray(images)}
        try:
            if self.device != "cpu":
                return self._infer_bound(feed[self._input_name])
            (logits,) = self._session.run([self._output_name], feed)
        except Exception as error:
            raise InferenceError(f"onnxruntime failed: {error}") from error
        return logits

    def _infer_bound(self, images: Pixels) -> Logits:
        """Run with the input and the output bound to the device's memory.

        Both are then copied once, and no operator waits for a copy that ONNX Runtime inserted.
        """
        binding = self._session.io_binding()
        pixels = self._ort.OrtValue.ortvalue_from_numpy(images, self.device, 0)
        binding.bind_ortvalue_input(self._input_name, pixels)
        binding.bind_output(self._output_name, self.device)
        self._session.run_with_iobinding(binding)
        return binding.get_outputs()[0].numpy()

    def close(self) -> None:
        self._session = None


def _providers(
    ort: onnxruntime, file: Path, device: Device, tensorrt: TensorRTProvider | None
) -> list[str | tuple[str, dict[str, str]]]:
    """Execution providers in order of preference."""
    if tensorrt is None:
        return [_PROVIDERS[device]]
    # The profile names the input, which only a session tells: a cheap one that optimises nothing.
    bare = ort.SessionOptions()
    bare.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    pixels = ort.InferenceSession(str(file), bare, providers=[_PROVIDERS["cpu"]]).get_inputs()[0]
    options = tensorrt.options(pixels.name, pixels.shape[1:])
    return [(_TENSORRT, options), _PROVIDERS["cuda"]]


def _open(opening: Opening) -> Runtime:
    return OnnxRuntime(
        opening.file,
        max_batch=opening.artifact.batch.maximum,
        device=opening.device,
        threads=opening.threads,
        spin=opening.spin,
    )


def _open_with_tensorrt(opening: Opening) -> Runtime:
    return OnnxRuntime(
        opening.file,
        max_batch=opening.artifact.batch.maximum,
        device=opening.device,
        threads=opening.threads,
        spin=opening.spin,
        tensorrt=TensorRTProvider(opening.artifact.batch, opening.cache),
    )


_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")

SPEC = RuntimeSpec(
    "onnxruntime",
    module="onnxruntime",
    extra="serve",
    distributions=_DISTRIBUTIONS,
    open=_open,
)
TENSORRT_SPEC = RuntimeSpec(
    "onnxruntime_tensorrt",
    module="onnxruntime",
    extra="gpu",
    distributions=_DISTRIBUTIONS,
    open=_open_with_tensorrt,
)
