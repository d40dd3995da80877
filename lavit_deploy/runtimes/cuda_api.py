"""The few calls of the CUDA runtime that an engine needs, errors as exceptions.

`Cuda` is the seam: tests put another one in its place and check buffers and graphs without a GPU.
"""

from __future__ import annotations

import ctypes
import importlib
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lavit_deploy.common.errors import InferenceError, MissingDependencyError

Bytes = npt.NDArray[np.uint8]


class Cuda(Protocol):
    """CUDA, as far as an engine needs it. Pointers and handles are integers."""

    def host_memory(self, size: int) -> Bytes:
        """Pinned memory uint8 [size], which copies run from and to without the CPU."""

    def free_host(self, memory: Bytes) -> None:
        """Give pinned memory back."""

    def device_memory(self, size: int) -> int:
        """Address of so many bytes on the GPU."""

    def free_device(self, address: int) -> None:
        """Give memory of the GPU back."""

    def create_stream(self) -> int:
        """A queue of work that waits for no other."""

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""

    def synchronise(self, stream: int) -> None:
        """Wait until all work of a stream is done."""

    def to_device(self, address: int, source: Bytes, size: int, stream: int) -> None:
        """Queue a copy of the first `size` bytes from pinned memory."""

    def to_host(self, target: Bytes, address: int, size: int, stream: int) -> None:
        """Queue a copy of `size` bytes into pinned memory."""

    def begin_capture(self, stream: int) -> None:
        """Record what is queued from now on, instead of doing it."""

    def end_capture(self, stream: int) -> int:
        """An executable graph of what was recorded."""

    def launch(self, graph: int, stream: int) -> None:
        """Queue a graph."""

    def destroy_graph(self, graph: int) -> None:
        """Give a graph back."""


class CudaRuntime:
    """`Cuda` by NVIDIA's `cuda-bindings`.

    Raises:
        MissingDependencyError: the package is not installed.
    """

    def __init__(self) -> None:
        try:
            # `Any`: the bindings publish no types.
            self._api: Any = importlib.import_module("cuda.bindings.runtime")
        except ImportError:
            raise MissingDependencyError(
                "cuda.bindings", extra="tensorrt", purpose="run engines on a GPU"
            ) from None
        self._addresses: dict[int, int] = {}

    def _call(self, name: str, *arguments: object) -> Any:  # noqa: ANN401 # no published types
        """One call of the runtime.

        Raises:
            InferenceError: it failed.
        """
        error, *results = getattr(self._api, name)(*arguments)
        if error != self._api.cudaError_t.cudaSuccess:
            _, text = self._api.cudaGetErrorString(error)
            words = text.decode() if isinstance(text, bytes) else str(text)
            raise InferenceError(f"CUDA: {name} failed: {words}")
        return results[0] if results else None

    def host_memory(self, size: int) -> Bytes:
        address = int(self._call("cudaMallocHost", size))
        memory = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        self._addresses[memory.ctypes.data] = address
        return memory

    def free_host(self, memory: Bytes) -> None:
        self._call("cudaFreeHost", self._addresses.pop(memory.ctypes.data))

    def device_memory(self, size: int) -> int:
        return int(self._call("cudaMalloc", size))

    def free_device(self, address: int) -> None:
        self._call("cudaFree", address)

    def create_stream(self) -> int:
        flag = self._api.cudaStreamNonBlocking
        return int(self._call("cudaStreamCreateWithFlags", flag))

    def destroy_stream(self, stream: int) -> None:
        self._call("cudaStreamDestroy", stream)

    def synchronise(self, stream: int) -> None:
        self._call("cudaStreamSynchronize", stream)

    def to_device(self, address: int, source: Bytes, size: int, stream: int) -> None:
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, source.ctypes.data, size, kind, stream)

    def to_host(self, target: Bytes, address: int, size: int, stream: int) -> None:
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, address, size, kind, stream)

    def begin_capture(self, stream: int) -> None:
        # Thread-local: other threads may allocate meanwhile.
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> int:
        recorded = self._call("cudaStreamEndCapture", stream)
        try:
            return int(self._call("cudaGraphInstantiate", recorded, 0))
        finally:
            self._call("cudaGraphDestroy", recorded)

    def launch(self, graph: int, stream: int) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        self._call("cudaGraphExecDestroy", graph)
