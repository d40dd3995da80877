"""Engines of TensorRT and TensorRT-RTX on an NVIDIA GPU.

A call takes a free lane: an execution context with a stream, pinned host memory and device memory
of its own. Copy in, engine, copy out of one batch size are recorded once as a CUDA graph and then
launched as one; for small batches the many launches of single kernels would cost more than the
kernels.
"""

from __future__ import annotations

import math
import queue
import threading
from collections import OrderedDict
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from lavit_deploy.errors import BundleError, InferenceError
from lavit_deploy.manifest import Device
from lavit_deploy.preprocess import Pixels
from lavit_deploy.runtimes.base import Logits, Runtime, TensorSpec
from lavit_deploy.runtimes.cuda import Cuda, CudaRuntime
from lavit_deploy.runtimes.tensorrt_library import (
    Flavour,
    Library,
    Messages,
    import_library,
    make_logger,
)

_RTX_CACHE = "tensorrt-rtx.cache"


class TensorRTRuntime(Runtime):
    """An engine with input uint8 [B, H, W, 3] and output float32 [B, K].

    Calls from several threads run at the same time, as many as there are contexts.

    Args:
        file: the serialised engine.
        flavour: which library wrote it.
        max_batch: largest batch to accept.
        contexts: how many calls may run at once; each has its own buffers.
        graphs: how many CUDA graphs a context keeps, one for each batch size; 0 for none.
        plugin: library with the plugins that the engine needs.
        weights: ONNX file that fills in the weights of a stripped engine.
        cache: folder where TensorRT-RTX keeps what it compiles for this GPU; default: nowhere.
        library: the imported library; default: import it.
        cuda: the CUDA runtime; default: that of `cuda-bindings`.

    Raises:
        BundleError: the engine cannot be loaded here, or takes or gives something else.
        MissingDependencyError: the library or cuda-bindings is not installed.
        InferenceError: the GPU refused memory or a stream.
    """

    device: Device = "cuda"

    def __init__(
        self,
        file: Path,
        *,
        flavour: Flavour,
        max_batch: int,
        contexts: int = 2,
        graphs: int = 16,
        plugin: Path | None = None,
        weights: Path | None = None,
        cache: Path | None = None,
        library: Library | None = None,
        cuda: Cuda | None = None,
    ) -> None:
        library = library or import_library(flavour)
        cuda = cuda or CudaRuntime()
        self.name = flavour
        self.max_batch = max_batch
        self._messages = Messages()
        self._logger = make_logger(library, self._messages)  # the engine does not own it
        self._lanes: list[_Lane] = []
        self._free: queue.SimpleQueue[_Lane] = queue.SimpleQueue()
        self._closed = False
        self._closing = threading.Lock()
        if plugin is not None:
            library.module.get_plugin_registry().load_library(str(plugin))
        self._engine = self._load(library, file, weights)
        ports = _ports(library, self._engine, file)
        self.input = TensorSpec("uint8", (None, *ports.sizes))
        self._runtime_cache = _RuntimeCache(library, self._engine, cache)
        try:
            for _ in range(contexts):
                context = self._runtime_cache.context()
                self._lanes.append(_Lane(cuda, context, ports, max_batch, graphs))
        except BaseException:
            self.close()
            raise
        for lane in self._lanes:
            self._free.put(lane)

    def _load(self, library: Library, file: Path, weights: Path | None) -> Any:  # noqa: ANN401 # no published types
        runtime = library.module.Runtime(self._logger)
        engine = runtime.deserialize_cuda_engine(file.read_bytes())
        if engine is None:
            raise BundleError(f"{library.title} cannot load {file}: {self._messages.summary()}")
        if weights is not None:
            _refit(library, engine, weights, self._logger, self._messages)
        return engine

    @property
    def graph_failures(self) -> int:
        """Batch sizes that run without a CUDA graph because recording one failed."""
        return sum(len(lane.plain) for lane in self._lanes)

    def _infer(self, images: Pixels) -> Logits:
        if self._closed:
            raise InferenceError(f"this {self.name} engine is closed")
        lane = self._free.get()
        try:
            return lane.infer(images)
        finally:
            self._free.put(lane)

    def close(self) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
        for lane in self._lanes:
            lane.close()
        self._lanes = []
        with suppress(OSError):  # what it compiled is compiled again on the next start
            self._runtime_cache.keep()
        self._engine = None


class _Ports:
    """Input and output of an engine.

    Attributes:
        input: name of the input.
        output: name of the output.
        sizes: height, width and channels of a picture.
        classes: number of logits.
    """

    def __init__(self, names: tuple[str, str], sizes: tuple[int, ...], classes: int) -> None:
        self.input, self.output = names
        self.sizes = sizes
        self.classes = classes


class _Lane:
    """One execution context, its stream, its buffers and its CUDA graphs."""

    def __init__(
        self,
        cuda: Cuda,
        context: Any,  # noqa: ANN401 # no published types
        ports: _Ports,
        max_batch: int,
        most_graphs: int,
    ) -> None:
        self._cuda = cuda
        self._context = context
        self._ports = ports
        self._most_graphs = most_graphs
        self._graphs: OrderedDict[int, int] = OrderedDict()
        self.plain: set[int] = set()
        self._image_bytes = math.prod(ports.sizes)
        self._row_bytes = ports.classes * np.dtype(np.float32).itemsize
        with ExitStack() as stack:  # what was allocated before a failure is given back
            self._stream = cuda.create_stream()
            stack.callback(cuda.destroy_stream, self._stream)
            self._pixels = cuda.host_memory(max_batch * self._image_bytes)
            stack.callback(cuda.free_host, self._pixels)
            self._logits = cuda.host_memory(max_batch * self._row_bytes)
            stack.callback(cuda.free_host, self._logits)
            self._device_pixels = cuda.device_memory(max_batch * self._image_bytes)
            stack.callback(cuda.free_device, self._device_pixels)
            self._device_logits = cuda.device_memory(max_batch * self._row_bytes)
            stack.callback(cuda.free_device, self._device_logits)
            self._context.set_tensor_address(ports.input, self._device_pixels)
            self._context.set_tensor_address(ports.output, self._device_logits)
            self._resources = stack.pop_all()

    def infer(self, images: Pixels) -> Logits:
        """Logits [B, K] of images [B, H, W, 3]."""
        batch = len(images)
        # [B, H, W, 3] -> [B * H * W * 3]
        self._pixels[: batch * self._image_bytes] = images.reshape(-1)
        try:
            graph = self._graph(batch)
            if graph is None:
                self._enqueue(batch)
            else:
                self._cuda.launch(graph, self._stream)
            self._cuda.synchronise(self._stream)
        except InferenceError:
            with suppress(InferenceError):  # nothing may still write into the buffers
                self._cuda.synchronise(self._stream)
            raise
        logits = self._logits[: batch * self._row_bytes].view(np.float32)
        return logits.reshape(batch, self._ports.classes).copy()  # [B * K] -> [B, K]

    def _graph(self, batch: int) -> int | None:
        """The graph of a batch size, recorded when the size is first met; None to do without."""
        if batch in self._graphs:
            self._graphs.move_to_end(batch)
            return self._graphs[batch]
        if not self._most_graphs or batch in self.plain:
            return None
        self._enqueue(batch)  # the first run of a shape may allocate, which a recording must not
        self._cuda.synchronise(self._stream)
        graph = self._record(batch)
        if graph is None:
            self.plain.add(batch)
            return None
        self._graphs[batch] = graph
        if len(self._graphs) > self._most_graphs:
            _, oldest = self._graphs.popitem(last=False)
            self._cuda.destroy_graph(oldest)
        return graph

    def _record(self, batch: int) -> int | None:
        """A graph of one run; None if something in it cannot be recorded."""
        self._cuda.begin_capture(self._stream)
        failed = False
        try:
            self._enqueue(batch)
        except InferenceError:
            failed = True
        try:
            graph = self._cuda.end_capture(self._stream)  # also after a failure: it ends the mode
        except InferenceError:
            return None
        if failed:
            self._cuda.destroy_graph(graph)
            return None
        return graph

    def _enqueue(self, batch: int) -> None:
        """Queue copy in, engine, copy out.

        Raises:
            InferenceError: TensorRT refused the shape or could not queue its kernels.
        """
        cuda, stream = self._cuda, self._stream
        cuda.to_device(self._device_pixels, self._pixels, batch * self._image_bytes, stream)
        if not self._context.set_input_shape(self._ports.input, (batch, *self._ports.sizes)):
            raise InferenceError(f"the engine's profile has no batch of {batch}")
        if not self._context.execute_async_v3(stream):
            raise InferenceError(f"the engine could not be started with a batch of {batch}")
        cuda.to_host(self._logits, self._device_logits, batch * self._row_bytes, stream)

    def close(self) -> None:
        with suppress(InferenceError):
            self._cuda.synchronise(self._stream)
        while self._graphs:
            _, graph = self._graphs.popitem()
            self._cuda.destroy_graph(graph)
        self._context = None
        self._resources.close()


class _RuntimeCache:
    """TensorRT-RTX compiles an engine's kernels for the GPU at hand when it is first run."""

    def __init__(self, library: Library, engine: Any, folder: Path | None) -> None:  # noqa: ANN401 # no published types
        self._engine = engine
        self._file = folder / _RTX_CACHE if folder is not None and library.is_rtx else None
        self._config: Any = None
        if self._file is None:
            return
        self._config = engine.create_runtime_config()
        self._cache = self._config.create_runtime_cache()
        if self._file.exists():
            self._cache.deserialize(self._file.read_bytes())
        self._config.set_runtime_cache(self._cache)

    def context(self) -> Any:  # noqa: ANN401 # no published types
        """A new execution context.

        Raises:
            InferenceError: there is not enough device memory.
        """
        arguments = () if self._config is None else (self._config,)
        context = self._engine.create_execution_context(*arguments)
        if context is None:
            raise InferenceError("no execution context: the GPU has too little free memory")
        return context

    def keep(self) -> None:
        """Write what was compiled for the next start."""
        if self._file is not None:
            from lavit_deploy.files import atomic_path

            with atomic_path(self._file) as temporary:
                temporary.write_bytes(bytes(self._cache.serialize()))


def _ports(library: Library, engine: Any, file: Path) -> _Ports:  # noqa: ANN401 # no published types
    """The engine's one input and one output.

    Raises:
        BundleError: they are not uint8 [B, H, W, 3] and float32 [B, K].
    """
    trt = library.module
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
    outputs = [n for n in names if n not in inputs]
    given = ", ".join(
        f"{n}: {engine.get_tensor_dtype(n).name} {list(engine.get_tensor_shape(n))}" for n in names
    )
    wanted = f"{file} has ({given}); expected uint8 [B, H, W, 3] in, float32 [B, K] out"
    if len(inputs) != 1 or len(outputs) != 1:
        raise BundleError(wanted)
    sizes = tuple(engine.get_tensor_shape(inputs[0]))[1:]
    classes = tuple(engine.get_tensor_shape(outputs[0]))[1:]
    right = (
        engine.get_tensor_dtype(inputs[0]) == trt.DataType.UINT8
        and engine.get_tensor_dtype(outputs[0]) == trt.DataType.FLOAT
        and len(sizes) == len("HWC")
        and len(classes) == 1
    )
    if not right:
        raise BundleError(wanted)
    return _Ports((inputs[0], outputs[0]), sizes, classes[0])


def _refit(library: Library, engine: Any, weights: Path, logger: Any, messages: Messages) -> None:  # noqa: ANN401 # no published types
    """Fill in the weights of a stripped engine.

    Raises:
        BundleError: the file's weights do not fit.
    """
    refitter = library.module.Refitter(engine, logger)
    parser = library.module.OnnxParserRefitter(refitter, logger)
    if not parser.refit_from_file(str(weights)) or not refitter.refit_cuda_engine():
        raise BundleError(f"the weights of {weights} do not fit the engine: {messages.summary()}")
