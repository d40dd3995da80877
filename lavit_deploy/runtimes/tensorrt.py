"""Engines of TensorRT and TensorRT-RTX on an NVIDIA GPU.

A call takes a free lane: a stream, pinned host memory and device memory of its own. Copy in,
engine, copy out of one batch size are recorded once as a CUDA graph and then launched as one; for
small batches the many launches of single kernels would cost more than the kernels.

A recorded graph is bound to the state of the execution context that it was recorded from, and
changing that, its input's shape too, makes launching the graph undefined. So every graph has a
context of its own. A lane's contexts share one block of memory for activations, which works because
a lane does one thing at a time.
"""

from __future__ import annotations

import math
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lavit_deploy.common.environment import Environment
from lavit_deploy.common.errors import BundleError, InferenceError
from lavit_deploy.manifest import Artifact, Device
from lavit_deploy.preprocess import Pixels
from lavit_deploy.runtimes.base import Logits, Runtime, TensorSpec
from lavit_deploy.runtimes.cuda_api import Bytes, Cuda, CudaRuntime
from lavit_deploy.runtimes.engine_compatibility import engine_obstacle
from lavit_deploy.runtimes.spec import Opening, RuntimeSpec
from lavit_deploy.runtimes.tensorrt_library import (
    Flavour,
    Library,
    Messages,
    import_library,
    load_plugin,
    make_logger,
    make_runtime,
)

_RTX_CACHE = "tensorrt-rtx.cache"


class TensorRTRuntime(Runtime):
    """An engine with input uint8 [B, H, W, C] and output float32 [B, K].

    Calls from several threads run at the same time, as many as there are lanes.

    Args:
        file: the serialised engine.
        flavour: which library wrote it.
        max_batch: largest batch to accept.
        lanes: how many calls may run at once; each has its own buffers.
        graphs: how many CUDA graphs a lane keeps, one for each batch size; 0 for none.
        plugin: library with the plugins that the engine needs.
        weights: ONNX file that fills in the weights of a stripped engine.
        host_code: the engine brings code for the CPU, as version-compatible ones do.
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
        lanes: int = 2,
        graphs: int = 16,
        plugin: Path | None = None,
        weights: Path | None = None,
        host_code: bool = False,
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
        # None tells threads that wait for a lane that there will be none.
        self._free: queue.SimpleQueue[_Lane | None] = queue.SimpleQueue()
        self._closed = False
        self._closing = threading.Lock()
        if plugin is not None:
            load_plugin(library, plugin)
        self._runtime = make_runtime(library, self._logger, host_code=host_code)
        self._engine = self._load(library, file, weights)
        ports = _ports(library, self._engine, file)
        self.input = TensorSpec("uint8", (None, *ports.sizes))
        self._contexts = _Contexts(library, self._engine, cache)
        try:
            for _ in range(lanes):
                lane = _Lane(cuda, self._contexts, ports, max_batch, graphs)
                self._lanes.append(lane)
                self._free.put(lane)
        except BaseException:
            self.close()
            raise

    def _load(self, library: Library, file: Path, weights: Path | None) -> Any:  # noqa: ANN401 # no published types
        engine = self._runtime.deserialize_cuda_engine(file.read_bytes())
        if engine is None:
            raise BundleError(f"{library.title} cannot load {file}: {self._messages.summary()}")
        if weights is not None:
            _refit(library, engine, weights, self._logger, self._messages)
        return engine

    def _infer(self, images: Pixels) -> Logits:
        lane = self._free.get()
        if lane is None:
            self._free.put(None)  # for the next thread that waits
            raise InferenceError(f"this {self.name} engine is closed")
        try:
            return lane.infer(images)
        finally:
            self._free.put(lane)

    def close(self) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
            for _ in self._lanes:
                self._free.get()  # waits for the call that has it
            self._free.put(None)
        for lane in self._lanes:
            lane.close()
        self._lanes = []
        with suppress(OSError):  # what it compiled is compiled again on the next start
            self._contexts.keep()
        # In this order: contexts went with the lanes, an engine goes before its runtime.
        del self._contexts, self._engine, self._runtime


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


class _Contexts:
    """Execution contexts of an engine, which take their memory for activations from us.

    Attributes:
        activation_bytes: what a context needs, for the largest batch.
    """

    def __init__(self, library: Library, engine: Any, cache: Path | None) -> None:  # noqa: ANN401 # no published types
        trt = library.module
        self._engine = engine
        self._strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self.activation_bytes = int(engine.device_memory_size_v2)
        self._config: Any = None
        self._file: Path | None = None
        if not library.is_rtx:
            return
        # TensorRT-RTX compiles an engine's kernels for the GPU at hand when it is first run.
        self._config = engine.create_runtime_config()
        self._config.set_execution_context_allocation_strategy(self._strategy)
        # Not in the background: a graph would keep the stopgaps that run until that is done.
        kinds = trt.DynamicShapesKernelSpecializationStrategy
        self._config.dynamic_shapes_kernel_specialization_strategy = kinds.EAGER
        if cache is not None:
            self._file = cache / _RTX_CACHE
            self._cache = self._config.create_runtime_cache()
            if self._file.exists():
                self._cache.deserialize(self._file.read_bytes())
            self._config.set_runtime_cache(self._cache)

    def make(self, ports: _Ports, pixels: int, logits: int, activations: int) -> Any:  # noqa: ANN401 # no published types
        """A new execution context.

        Args:
            ports: the engine's input and output.
            pixels: address of the input on the GPU.
            logits: address of the output.
            activations: address of `activation_bytes`, which no other work uses meanwhile.

        Raises:
            InferenceError: there is not enough device memory, or an address is refused.
        """
        argument = self._strategy if self._config is None else self._config
        context = self._engine.create_execution_context(argument)
        if context is None:
            raise InferenceError("no execution context: the GPU has too little free memory")
        context.set_device_memory(activations, self.activation_bytes)
        for name, address in ((ports.input, pixels), (ports.output, logits)):
            if not context.set_tensor_address(name, address):
                raise InferenceError(f"the engine refuses the address of {name}")
        return context

    def keep(self) -> None:
        """Write what was compiled for the next start."""
        if self._file is not None:
            from lavit_deploy.common.atomic_files import atomic_path

            with atomic_path(self._file) as temporary:
                temporary.write_bytes(bytes(self._cache.serialize()))


@dataclass(frozen=True)
class _Recorded:
    """A CUDA graph, and the context that must stay as it was when the graph was recorded."""

    graph: int
    context: Any


class _Lane:
    """A stream, its buffers, its execution contexts and their CUDA graphs."""

    def __init__(
        self,
        cuda: Cuda,
        contexts: _Contexts,
        ports: _Ports,
        max_batch: int,
        most_graphs: int,
    ) -> None:
        self._cuda = cuda
        self._ports = ports
        self._most_graphs = most_graphs
        self._graphs: OrderedDict[int, _Recorded] = OrderedDict()
        self.plain: set[int] = set()
        self._image_bytes = math.prod(ports.sizes)
        self._row_bytes = ports.classes * np.dtype(np.float32).itemsize
        with ExitStack() as stack:  # what was allocated before a failure is given back

            def device_memory(size: int) -> int:
                address = cuda.device_memory(size)
                stack.callback(cuda.free_device, address)
                return address

            def host_memory(size: int) -> Bytes:
                memory = cuda.host_memory(size)
                stack.callback(cuda.free_host, memory)
                return memory

            self._stream = cuda.create_stream()
            stack.callback(cuda.destroy_stream, self._stream)
            self._pixels = host_memory(max_batch * self._image_bytes)
            self._logits = host_memory(max_batch * self._row_bytes)
            self._device_pixels = device_memory(max_batch * self._image_bytes)
            self._device_logits = device_memory(max_batch * self._row_bytes)
            activations = device_memory(max(contexts.activation_bytes, 1))
            self._new_context: Callable[[], Any] = lambda: contexts.make(
                ports, self._device_pixels, self._device_logits, activations
            )
            self._context = self._new_context()  # of calls without a graph
            self._spare: list[Any] = []  # contexts of no graph, to record another one from
            self._resources = stack.pop_all()

    def infer(self, images: Pixels) -> Logits:
        """Logits [B, K] of images [B, H, W, C]."""
        batch = len(images)
        # [B, H, W, C] -> [B * H * W * 3]
        self._pixels[: batch * self._image_bytes] = images.reshape(-1)
        try:
            graph = self._graph(batch)
            if graph is None:
                self._enqueue(self._context, batch)
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
            return self._graphs[batch].graph
        if not self._most_graphs or batch in self.plain:
            return None
        if len(self._graphs) == self._most_graphs:
            _, oldest = self._graphs.popitem(last=False)
            self._cuda.destroy_graph(oldest.graph)
            self._spare.append(oldest.context)
        try:
            context = self._spare.pop() if self._spare else self._new_context()
        except InferenceError:  # no memory for one more; the first context still runs every size
            self.plain.add(batch)
            return None
        graph = self._record(context, batch)
        if graph is None:
            self.plain.add(batch)
            self._spare.append(context)
            return None
        self._graphs[batch] = _Recorded(graph, context)
        return graph

    def _record(self, context: Any, batch: int) -> int | None:  # noqa: ANN401 # no published types
        """A graph of one run; None if something in it cannot be recorded.

        Raises:
            InferenceError: the run failed, recorded or not.
        """
        self._enqueue(context, batch)  # the first run of a shape may allocate, a recording must not
        self._cuda.synchronise(self._stream)
        self._cuda.begin_capture(self._stream)
        failed = False
        try:
            self._enqueue(context, batch)
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

    def _enqueue(self, context: Any, batch: int) -> None:  # noqa: ANN401 # no published types
        """Queue copy in, engine, copy out.

        Raises:
            InferenceError: TensorRT refused the shape or could not queue its kernels.
        """
        cuda, stream = self._cuda, self._stream
        cuda.to_device(self._device_pixels, self._pixels, batch * self._image_bytes, stream)
        if not context.set_input_shape(self._ports.input, (batch, *self._ports.sizes)):
            raise InferenceError(f"the engine's profile has no batch of {batch}")
        if not context.execute_async_v3(stream):
            raise InferenceError(f"the engine could not be started with a batch of {batch}")
        cuda.to_host(self._logits, self._device_logits, batch * self._row_bytes, stream)

    def close(self) -> None:
        with suppress(InferenceError):
            self._cuda.synchronise(self._stream)
        while self._graphs:
            _, recorded = self._graphs.popitem()
            self._cuda.destroy_graph(recorded.graph)
        self._context, self._spare = None, []
        del self._new_context
        self._resources.close()


def _ports(library: Library, engine: Any, file: Path) -> _Ports:  # noqa: ANN401 # no published types
    """The engine's one input and one output.

    Raises:
        BundleError: they are not uint8 [B, H, W, C] and float32 [B, K].
    """
    trt = library.module
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
    outputs = [n for n in names if n not in inputs]
    given = ", ".join(
        f"{n}: {engine.get_tensor_dtype(n).name} {list(engine.get_tensor_shape(n))}" for n in names
    )
    wanted = f"{file} has ({given}); expected uint8 [B, H, W, C] in, float32 [B, K] out"
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


def _open(flavour: Flavour, opening: Opening) -> Runtime:
    artifact = opening.artifact
    return TensorRTRuntime(
        opening.file,
        flavour=flavour,
        max_batch=artifact.batch.maximum,
        plugin=opening.folder / artifact.plugin if artifact.plugin else None,
        weights=_weights_of(opening),
        host_code=artifact.engine is not None and artifact.engine.version_compatible,
        cache=opening.cache,
    )


def _weights_of(opening: Opening) -> Path | None:
    """The ONNX file that fills in the weights of a stripped engine.

    Raises:
        BundleError: the manifest names none.
    """
    artifact = opening.artifact
    if artifact.engine is None or not artifact.engine.stripped:
        return None
    for extra in artifact.extra_files:
        if extra.file.endswith(".onnx"):
            return opening.folder / extra.file
    raise BundleError(f"{artifact.name} holds no weights, and the manifest names no ONNX file")


def _obstacle(
    distributions: tuple[str, ...],
    artifact: Artifact,
    here: Environment,  # noqa: ARG001 - an obstacle's signature
) -> str:
    return engine_obstacle(artifact, distributions)


_DISTRIBUTIONS = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
_RTX_DISTRIBUTIONS = ("tensorrt-rtx-cu13", "tensorrt_rtx_cu13", "tensorrt-rtx")

SPEC = RuntimeSpec(
    "tensorrt",
    module="tensorrt",
    extra="tensorrt",
    distributions=_DISTRIBUTIONS,
    open=partial(_open, "tensorrt"),
    obstacle=partial(_obstacle, _DISTRIBUTIONS),
)
RTX_SPEC = RuntimeSpec(
    "tensorrt_rtx",
    module="tensorrt_rtx",
    extra="tensorrt-rtx",
    distributions=_RTX_DISTRIBUTIONS,
    open=partial(_open, "tensorrt_rtx"),
    obstacle=partial(_obstacle, _RTX_DISTRIBUTIONS),
)
