"""A PyTorch model to be timed: eager, compiled, or captured as a CUDA graph."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from lavit_deploy.common.errors import UsageError
from lavit_deploy.manifest import Device
from lavit_deploy.profiles.timing.runner import BatchTooLargeError, Precision, Runner, TorchRuntime

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_SEED = 0
_CAPTURE_WARM_UP = 3


def check_device(device: Device) -> None:
    """Refuse a GPU that PyTorch does not see.

    Raises:
        UsageError: there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            f"no CUDA device is visible to PyTorch {torch.__version__}; --device cpu is available"
        )


def check_runtime(runtime: TorchRuntime, device: Device) -> None:
    """Refuse a runtime that the device does not have.

    Raises:
        UsageError: CUDA graphs without a GPU.
    """
    if runtime == "cuda-graph" and device != "cuda":
        raise UsageError("CUDA graphs need --device cuda; torch and torch-compile run on a CPU")


def device_name(device: Device) -> str | None:
    """Name of the GPU; None for the CPU, which the environment block names."""
    return torch.cuda.get_device_name() if device == "cuda" else None


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Let PyTorch's operators use `threads` threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class TorchRunner(Runner):
    """A PyTorch model under `inference_mode`, fed normalised float32 images.

    Below float32 it runs under autocast, as it was trained: operators that need float32 keep it.
    On a GPU a call is timed by CUDA events on the current stream, the host waiting for the second:
    without that wait one would time the launch of kernels.

    Args:
        label: name in reports.
        model: float32, in evaluation mode; moved to `device`.
        image_size: height and width, pixels.
        channels: of the input.
        device: where to compute.
        precision: of matrix products and convolutions.
        runtime: eager, through `torch.compile`, or captured as a CUDA graph for each batch and
            replayed, which leaves out what launching kernels costs the host.
    """

    def __init__(
        self,
        label: str,
        model: nn.Module,
        image_size: tuple[int, int],
        *,
        channels: int = 3,
        device: Device = "cpu",
        precision: Precision = "fp32",
        runtime: TorchRuntime = "torch",
    ) -> None:
        self.label = label
        self._device, self._precision = device, precision
        self._shape = (channels, *image_size)
        model = model.to(device).eval()
        self._model = torch.compile(model) if runtime == "torch-compile" else model
        self._capturing = runtime == "cuda-graph"
        self._graph: torch.cuda.CUDAGraph | None = None
        self._images = torch.empty(0)

    def prepare(self, batch: int) -> None:
        generator = torch.Generator().manual_seed(_SEED)
        images = torch.randn(batch, *self._shape, generator=generator)
        with self._within_memory(batch):
            self._graph = None  # its memory is free before the next one is captured
            self._images = images.to(self._device)
            if self._capturing:
                self._graph = self._captured()

    def call(self) -> float:
        with self._within_memory(len(self._images)), torch.inference_mode(), self._autocast():
            return self._on_gpu() if self._device == "cuda" else self._on_cpu()

    @contextmanager
    def _within_memory(self, batch: int) -> Iterator[None]:
        """Turn a failed allocation into an error of this project."""
        try:
            yield
        except (
            RuntimeError
        ) as error:  # torch.OutOfMemoryError is one; on the CPU it is all there is
            if isinstance(error, torch.OutOfMemoryError):
                torch.cuda.empty_cache()
            elif "allocate memory" not in str(error):
                raise
            raise BatchTooLargeError(
                f"{self.label}: a batch of {batch} does not fit into memory"
            ) from None

    def _captured(self) -> torch.cuda.CUDAGraph:
        """Capture a call; PyTorch asks for warm-up calls on a stream of their own before."""
        with torch.inference_mode(), self._autocast():
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_CAPTURE_WARM_UP):
                    self._model(self._images)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._model(self._images)
        return graph

    def _autocast(self) -> torch.autocast:
        dtype = DTYPES[self._precision]
        return torch.autocast(self._device, dtype=dtype, enabled=dtype is not torch.float32)

    def _on_cpu(self) -> float:
        started = time.perf_counter()
        self._model(self._images)
        return time.perf_counter() - started

    def _on_gpu(self) -> float:
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        start.record()
        if self._graph is None:
            self._model(self._images)
        else:
            self._graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000  # milliseconds -> seconds

    def peak_memory(self) -> int | None:
        if self._graph is not None:
            return None  # a graph keeps its memory reserved between calls
        if self._device == "cuda":
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            self.call()
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated() - before
        return _cpu_peak(self.call)

    def close(self) -> None:
        self._model, self._images, self._graph = nn.Identity(), torch.empty(0), None
        if self._device == "cuda":
            torch.cuda.empty_cache()


def _cpu_peak(call: Callable[[], object]) -> int:
    """Most bytes that PyTorch's CPU allocator had given out at once during a call.

    Resident memory says less: it keeps what other models left, and never shrinks. Scratch that a
    kernel takes without asking the allocator is not seen.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler reports itself on stderr
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(file))
        events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    allocations = sorted(
        (event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]"
    )
    live = np.cumsum([size for _, size in allocations], dtype=np.int64)
    return int(live.max(initial=0))
