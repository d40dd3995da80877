"""OpenVINO on a CPU: the faster runtime where it is installed, above all in bfloat16."""

from __future__ import annotations

import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lavit_deploy.common.environment import Environment, available_cores
from lavit_deploy.common.errors import (
    BundleError,
    InferenceError,
    MissingDependencyError,
    UsageError,
)
from lavit_deploy.manifest import Artifact, Device, Precision
from lavit_deploy.preprocess import Pixels
from lavit_deploy.runtimes.base import Logits, Runtime, TensorSpec
from lavit_deploy.runtimes.spec import Opening, RuntimeSpec

if TYPE_CHECKING:
    import openvino

COMPUTE_LAYERS = ("FullyConnected", "MatMul", "Convolution", "BrgemmConv")
"""Layers of a compiled graph whose precision decides what it computes in."""

_HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_FOUND = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}


BF16_FEATURES = frozenset({"avx512_bf16", "amx_bf16"})
"""Of a CPU: either makes OpenVINO compute in bfloat16 unless told otherwise."""


def import_openvino() -> openvino:
    """The openvino package, its telemetry off: that would also need a home folder.

    Raises:
        MissingDependencyError: it is not installed.
    """
    # openvino goes on without it where it is not installed.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
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
    """An OpenVINO model with input uint8 [B, H, W, C], compiled for latency and for throughput.

    One picture is worked on by all threads, in a graph of fixed shape: that is fastest for one. A
    batch is cut into equal parts for independent streams that never wait for each other: on two
    cores 4 to 11 % faster than all threads on one operator after another
    (`benchmarks/cpu_inference.py`). Each of the two keeps its own copy of the packed weights.

    Args:
        file: an IR (`.xml`, its `.bin` beside it) or an ONNX file.
        max_batch: largest batch to accept.
        precision: what to compute in.
        threads: threads in all; default: the cores this process may use.
        streams: into how many parts a batch is cut, at most `threads`; default: `threads`.
        cache: folder where compiled models are kept for the next start; default: nowhere.

    Raises:
        BundleError: the file is no model, or not one with that input.
        MissingDependencyError: openvino is not installed.
        UsageError: the CPU does not compute in `precision`, or there are fewer threads than
            streams.
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
        streams: int | None = None,
        cache: Path | None = None,
    ) -> None:
        native = cpu_precisions()
        if precision not in native:
            raise UsageError(
                f"this CPU does not compute in {precision} with OpenVINO, "
                f"only in {', '.join(native)}"
            )
        threads = threads or available_cores()
        streams = threads if streams is None else streams
        if not 1 <= streams <= threads:
            raise UsageError(f"{streams} streams for {threads} threads: expected 1 to {threads}")
        config = precision_config(precision) | {"INFERENCE_NUM_THREADS": threads}
        if threads < available_cores():
            # Pinned, the threads of every model begin at the first core: two models that are meant
            # to share the cores run on the same one, each at half the speed.
            config["ENABLE_CPU_PINNING"] = False
        if cache is not None:
            config["CACHE_DIR"] = str(cache)
        # The plugin gives the thread that loads it a stack for signals, and unmaps it in whichever
        # thread lets go of the model: the next signal of the first thread would end the process.
        with ThreadPoolExecutor(1) as short_lived:
            opening = short_lived.submit(_open, file, config, streams)
            self.input, many, one = opening.result()
        self._compiled = one
        self._single = one.create_infer_request()
        self._streams = [many.create_infer_request() for _ in range(min(streams, max_batch))]
        self.max_batch = max_batch

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
        if self._single is None:
            raise InferenceError("this OpenVINO model is closed")
        requests = [self._single] if len(images) == 1 else self._streams[: len(images)]
        parts = np.array_split(np.ascontiguousarray(images), len(requests))
        try:
            for request, part in zip(requests, parts, strict=True):
                request.start_async([part], share_inputs=True)
            return np.concatenate([_result(request) for request in requests])
        except RuntimeError as error:
            for request in requests:  # what still runs reads `images`
                with suppress(RuntimeError):
                    request.cancel()
                    request.wait()
            raise InferenceError(f"openvino failed: {error}") from error

    def close(self) -> None:
        self._single = None
        self._streams = []
        self._compiled = None


def _open(
    file: Path, config: dict[str, Any], streams: int
) -> tuple[TensorSpec, openvino.CompiledModel, openvino.CompiledModel]:
    """A file's input, and the file compiled for throughput and for one picture.

    Raises:
        BundleError: as of `OpenVinoRuntime`.
    """
    core = import_openvino().Core()
    # Weights mapped from a file that somebody shortens would end the process.
    core.set_property({"ENABLE_MMAP": False})
    try:
        model = core.read_model(file)
        spec = _input_of(model, file)
        many = core.compile_model(model, "CPU", config | {"NUM_STREAMS": streams})
        model.reshape([1, *spec.shape[1:]])
        one = core.compile_model(model, "CPU", config | {"NUM_STREAMS": 1})
    except RuntimeError as error:
        raise BundleError(f"openvino cannot open {file}: {error}") from None
    return spec, many, one


def _input_of(model: openvino.Model, file: Path) -> TensorSpec:
    """The input of a model, which must be one uint8 [B, H, W, C].

    Raises:
        BundleError: it is something else.
    """
    port = model.inputs[0]
    shape, kind = port.get_partial_shape(), port.get_element_type().get_type_name()
    if len(model.inputs) != 1 or kind != "u8" or len(shape) != len("BHWC"):
        raise BundleError(f"{file} takes {kind} {shape}; expected one uint8 [B, H, W, C]")
    return TensorSpec("uint8", (None, *(size.get_length() for size in list(shape)[1:])))


def _result(request: openvino.InferRequest) -> Logits:
    """Logits [B, K] of a request that was started."""
    request.wait()
    return request.get_output_tensor(0).data


def _open_artifact(opening: Opening) -> Runtime:
    return OpenVinoRuntime(
        opening.file,
        max_batch=opening.artifact.batch.maximum,
        precision=_computed(opening.artifact),
        threads=opening.threads,
        cache=opening.cache,
    )


def _computed(artifact: Artifact) -> Precision:
    """What is to be computed in: of an int8 artifact, what is not int8."""
    quantization = artifact.quantization
    return artifact.precision_requested if quantization is None else quantization.rest


def _obstacle(artifact: Artifact, here: Environment) -> str:
    quantization = artifact.quantization
    computed = artifact.precision_found if quantization is None else quantization.rest
    if computed == "bf16" and not BF16_FEATURES.intersection(here.cpu_features):
        return "needs a CPU with bfloat16 instructions"
    return ""


SPEC = RuntimeSpec(
    "openvino",
    module="openvino",
    extra="openvino",
    distributions=("openvino",),
    open=_open_artifact,
    obstacle=_obstacle,
)
