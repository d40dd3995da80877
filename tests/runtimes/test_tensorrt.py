"""The runtime's buffers, streams and graphs on a CUDA that computes in ordinary memory."""

import ctypes
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lavit_deploy.bundle.first_run import PICTURES_FILE, verify, was_run, write_pictures
from lavit_deploy.common.errors import BundleError, InferenceError
from lavit_deploy.common.gpu import Gpu, find_gpu
from lavit_deploy.manifest import Engine
from lavit_deploy.runtimes.cuda_api import CudaRuntime
from lavit_deploy.runtimes.engine_compatibility import mismatch
from lavit_deploy.runtimes.onnxruntime import OnnxRuntime, TensorRTProvider
from lavit_deploy.runtimes.tensorrt import TensorRTRuntime
from lavit_deploy.runtimes.tensorrt_library import Library, load_plugin, make_runtime

API = json.loads((Path(__file__).parents[1] / "support" / "tensorrt_api.json").read_text())
SHAPE = (8, 8, 3)
POISON = 0xAB
ACTIVATIONS = 1024


class FakeCuda:
    """Device memory is ordinary memory, and work is queued: nothing happens before it is awaited.

    Work that is queued while a stream records goes into a graph instead.
    """

    def __init__(self, *, capturable=True, memory=None):
        self.live = {}
        self.queues = {}
        self.recording = {}
        self.graphs = {}
        self.launches = 0
        self.capturable = capturable
        self.memory = memory
        self.next = 1

    def _handle(self):
        self.next += 1
        return self.next

    def host_memory(self, size):
        memory = np.full(size, POISON, np.uint8)
        self.live[memory.ctypes.data] = memory
        return memory

    def free_host(self, memory):
        del self.live[memory.ctypes.data]

    def device_memory(self, size):
        if self.memory is not None:
            self.memory -= size
            if self.memory < 0:
                raise InferenceError("CUDA: cudaMalloc failed: out of memory")
        return self.host_memory(size).ctypes.data

    def free_device(self, address):
        del self.live[address]

    def create_stream(self):
        stream = self._handle()
        self.queues[stream] = []
        return stream

    def destroy_stream(self, stream):
        assert not self.queues.pop(stream), "destroyed with work that was never awaited"

    def enqueue(self, stream, work):
        (self.recording.get(stream, self.queues[stream])).append(work)

    def synchronise(self, stream):
        assert stream not in self.recording
        work, self.queues[stream] = self.queues[stream], []
        for item in work:
            item()

    def to_device(self, address, source, size, stream):
        self.enqueue(stream, lambda: ctypes.memmove(address, source.ctypes.data, size))

    def to_host(self, target, address, size, stream):
        self.enqueue(stream, lambda: ctypes.memmove(target.ctypes.data, address, size))

    def begin_capture(self, stream):
        assert not self.queues[stream], "work before a recording must have been awaited"
        self.recording[stream] = []

    def end_capture(self, stream):
        work = self.recording.pop(stream)
        if not self.capturable:
            raise InferenceError("CUDA: cudaStreamEndCapture failed: not permitted")
        graph = self._handle()
        self.graphs[graph] = work
        return graph

    def launch(self, graph, stream):
        self.launches += 1
        self.queues[stream].extend(self.graphs[graph])

    def destroy_graph(self, graph):
        del self.graphs[graph]


class FakeContext:
    """Computes the mean colour of pictures that lie in `FakeCuda`'s memory.

    A graph that was recorded from it may only run while its shape is that of the recording, as the
    real library demands; here it says so.
    """

    def __init__(self, cuda, gate=None):
        self.cuda = cuda
        self.addresses = {}
        self.activations = None
        self.batch = None
        self.runs = 0
        self.gate = gate

    def set_device_memory(self, address, size):
        assert self.cuda.live[address].size >= size == ACTIVATIONS
        self.activations = address

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def set_input_shape(self, _name, shape):
        self.batch = shape[0]
        return 1 <= shape[0] <= 4

    def execute_async_v3(self, stream):
        batch = self.batch
        self.runs += 1

        def work():
            assert self.batch == batch, "the context was changed under its graph"
            if self.gate is not None:
                self.gate.wait(timeout=10)
            size = batch * int(np.prod(SHAPE))
            images = np.ctypeslib.as_array(
                (ctypes.c_uint8 * size).from_address(self.addresses["images"])
            )
            scratch = self.cuda.live[self.activations]
            scratch[:size] = images  # another lane must not use it at the same time
            if self.gate is not None:
                self.gate.wait(timeout=10)
            logits = np.ctypeslib.as_array(
                (ctypes.c_float * (batch * 3)).from_address(self.addresses["logits"])
            )
            logits[:] = scratch[:size].reshape(batch, 64, 3).mean(axis=1).reshape(-1)

        self.cuda.enqueue(stream, work)
        return True


class FakeEngine:
    num_io_tensors = 2
    device_memory_size_v2 = ACTIVATIONS

    def __init__(self, trt, make_context, kind="UINT8"):
        self._trt, self._make_context, self._kind = trt, make_context, kind

    def get_tensor_name(self, index):
        return ("images", "logits")[index]

    def get_tensor_mode(self, name):
        return getattr(self._trt.TensorIOMode, "INPUT" if name == "images" else "OUTPUT")

    def get_tensor_dtype(self, name):
        return getattr(self._trt.DataType, self._kind if name == "images" else "FLOAT")

    def get_tensor_shape(self, name):
        return (-1, *SHAPE) if name == "images" else (-1, 3)

    def create_execution_context(self, strategy):
        assert strategy.name == "USER_MANAGED"
        return self._make_context()


for ours, real in ((FakeContext, "IExecutionContext"), (FakeEngine, "ICudaEngine")):
    for version in ("10.16.1.11", "11.4.0.106"):
        assert {n for n in vars(ours) if not n.startswith("_")} <= set(API[version][real])


def member(name):
    return SimpleNamespace(name=name)


@pytest.fixture
def make(tmp_path):
    """Open a runtime over fakes."""

    def made(
        *, cuda=None, count=2, gate=None, kind="UINT8", loads=True, most_contexts=None, **options
    ):
        cuda = cuda or FakeCuda()
        contexts = []

        def make_context():
            if most_contexts is not None and len(contexts) == most_contexts:
                return None
            contexts.append(FakeContext(cuda, gate))
            return contexts[-1]

        trt = SimpleNamespace(
            __version__="11.4.0.106",
            ILogger=type(
                "ILogger",
                (),
                {"Severity": SimpleNamespace(ERROR=1, INTERNAL_ERROR=0, WARNING=2)},
            ),
            TensorIOMode=SimpleNamespace(INPUT=member("INPUT"), OUTPUT=member("OUTPUT")),
            DataType=SimpleNamespace(
                UINT8=member("UINT8"), FLOAT=member("FLOAT"), HALF=member("HALF")
            ),
            ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED=member("USER_MANAGED")),
        )
        engine = FakeEngine(trt, make_context, kind)

        class Runtime:
            def __init__(self, logger):
                self.logger = logger

            def deserialize_cuda_engine(self, _content):
                if not loads:
                    self.logger.log(1, "Serialization\nversion mismatch")
                return engine if loads else None

        trt.Runtime = Runtime
        file = tmp_path / "m.engine"
        file.write_bytes(b"plan")
        runtime = TensorRTRuntime(
            file,
            flavour="tensorrt",
            max_batch=4,
            lanes=count,
            library=Library("tensorrt", trt),
            cuda=cuda,
            **options,
        )
        return SimpleNamespace(runtime=runtime, cuda=cuda, contexts=contexts)

    return made


@pytest.fixture
def images():
    return np.random.default_rng(1).integers(0, 256, (4, *SHAPE), dtype=np.uint8)


def mean(images):
    return images.reshape(len(images), 64, 3).mean(axis=1).astype(np.float32)


def test_every_batch_size_is_right_also_when_sizes_alternate(make, images):
    opened = make(count=1)
    for size in (1, 4, 2, 3, 1, 4, 1):
        np.testing.assert_array_equal(opened.runtime.infer(images[-size:]), mean(images[-size:]))


def test_a_batch_size_is_recorded_once_and_launched_after_that(make, images):
    opened = make(count=1)
    for _ in range(5):
        opened.runtime.infer(images[:2])
    assert sum(context.runs for context in opened.contexts) == 2  # to settle, and to record
    assert opened.cuda.launches == 5
    assert len(opened.cuda.graphs) == 1


def test_the_longest_unused_graph_makes_room(make, images):
    opened = make(count=1, graphs=2)
    for size in (1, 2, 1, 3):  # 2 goes
        opened.runtime.infer(images[:size])
    assert len(opened.contexts) == 3  # one without a graph, and the evicted graph's is used again

    def runs():
        return sum(context.runs for context in opened.contexts)

    before = runs()
    opened.runtime.infer(images[:1])
    assert runs() == before
    opened.runtime.infer(images[:2])
    assert runs() == before + 2
    assert len(opened.cuda.graphs) == 2
    assert len(opened.contexts) == 3


def test_contexts_of_a_lane_share_memory_and_those_of_others_do_not(make, images):
    opened = make(count=2, gate=threading.Barrier(2))
    for size in (1, 2):  # both lanes at once
        with ThreadPoolExecutor(2) as pool:
            for call in [pool.submit(opened.runtime.infer, images[:size]) for _ in range(2)]:
                call.result(timeout=20)
    lanes = {}
    for context in opened.contexts:
        lanes.setdefault(context.addresses["images"], set()).add(context.activations)
    assert [len(memory) for memory in lanes.values()] == [1, 1]
    assert len(set.union(*lanes.values())) == 2
    assert len(opened.contexts) == 2 * 3


def plain_sizes(runtime):
    """Batch sizes that run without a CUDA graph because recording one failed."""
    return set().union(*(lane.plain for lane in runtime._lanes))


def test_without_memory_for_another_context_a_size_runs_without_a_graph(make, images):
    opened = make(count=1, most_contexts=2)
    for size in (1, 2, 1, 3):
        np.testing.assert_array_equal(opened.runtime.infer(images[:size]), mean(images[:size]))
    assert plain_sizes(opened.runtime) == {2, 3}
    assert len(opened.cuda.graphs) == 1


def test_an_engine_that_cannot_be_recorded_runs_without_graphs(make, images):
    opened = make(cuda=FakeCuda(capturable=False), count=1)
    for _ in range(3):
        np.testing.assert_array_equal(opened.runtime.infer(images), mean(images))
    assert opened.cuda.launches == 0
    assert plain_sizes(opened.runtime) == {len(images)}


def test_graphs_can_be_turned_off(make, images):
    opened = make(graphs=0)
    np.testing.assert_array_equal(opened.runtime.infer(images), mean(images))
    assert not opened.cuda.graphs


def test_answers_are_not_overwritten_by_the_next_call(make, images):
    opened = make(count=1)
    first = opened.runtime.infer(images[:1])
    kept = first.copy()
    opened.runtime.infer(images[1:2])
    np.testing.assert_array_equal(first, kept)


def test_threads_share_the_contexts_and_never_each_others_buffers(make):
    opened = make(count=2)
    generator = np.random.default_rng(2)
    batches = [
        generator.integers(0, 256, (1 + index % 4, *SHAPE), dtype=np.uint8) for index in range(60)
    ]
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(opened.runtime.infer, batches))
    for found, batch in zip(results, batches, strict=True):
        np.testing.assert_array_equal(found, mean(batch))


def test_two_calls_run_at_the_same_time(make, images):
    """Both wait at one gate that opens only when two are there."""
    opened = make(count=2, gate=threading.Barrier(2), graphs=0)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(opened.runtime.infer, images[:1]) for _ in range(2)]
        for call in calls:
            np.testing.assert_array_equal(call.result(timeout=20), mean(images[:1]))


def test_closing_gives_everything_back_and_may_be_repeated(make, images):
    opened = make()
    opened.runtime.infer(images)
    opened.runtime.close()
    opened.runtime.close()
    assert not opened.cuda.live
    assert not opened.cuda.queues
    assert not opened.cuda.graphs
    with pytest.raises(InferenceError, match="closed"):
        opened.runtime.infer(images)


def test_closing_waits_for_calls_and_refuses_those_that_come_later(make, images):
    gate = threading.Event()
    opened = make(count=1, gate=gate, graphs=0)
    with ThreadPoolExecutor(3) as pool:
        running = pool.submit(opened.runtime.infer, images[:1])
        while not opened.contexts[0].runs:
            time.sleep(0.001)
        waiting = pool.submit(opened.runtime.infer, images[:1])
        closing = pool.submit(opened.runtime.close)
        assert opened.cuda.live
        gate.set()
        closing.result(timeout=20)
        np.testing.assert_array_equal(running.result(timeout=20), mean(images[:1]))
        error = waiting.exception(timeout=20)
        assert error is None or "is closed" in str(error)  # it may have come before or after
    assert not opened.cuda.live


class FakeRegistry:
    """As TensorRT's: it refuses a library whose plugins it has."""

    def __init__(self, *, damaged=False):
        self.all_creators = [SimpleNamespace(name="NMS", plugin_namespace="")]
        self.loads = 0
        self.damaged = damaged

    def load_library(self, _path):
        self.loads += 1
        if self.damaged or len(self.all_creators) > 1:
            return None
        self.all_creators.append(SimpleNamespace(name="LessAttention", plugin_namespace="lavit"))
        return object()


assert all(
    {"all_creators", "load_library"} <= set(API[version]["IPluginRegistry"])
    for version in ("10.16.1.11", "11.4.0.106")
)


def test_the_plugin_is_loaded_once_however_many_engines_use_it(tmp_path):
    registry = FakeRegistry()
    trt = SimpleNamespace(__version__="11.4", get_plugin_registry=lambda: registry)
    for _ in range(3):
        load_plugin(Library("tensorrt", trt), tmp_path / "plugin.so")
    assert registry.loads == 1
    registry = FakeRegistry(damaged=True)
    with pytest.raises(BundleError, match=r"TensorRT 11\.4 cannot load the plugin .*plugin\.so"):
        load_plugin(Library("tensorrt", trt), tmp_path / "plugin.so")


def test_only_version_compatible_engines_may_bring_code_for_the_cpu():
    trt = SimpleNamespace(
        Runtime=lambda _logger: SimpleNamespace(engine_host_code_allowed=False), __version__="11.4"
    )
    for allowed in (False, True):
        made = make_runtime(Library("tensorrt", trt), None, host_code=allowed)
        assert made.engine_host_code_allowed == allowed
    for version in ("10.16.1.11", "11.4.0.106"):
        assert "engine_host_code_allowed" in API[version]["Runtime"]


def test_too_little_gpu_memory_leaves_nothing_behind(make):
    cuda = FakeCuda(
        memory=4 * 64 * 3 + 4 * 3 * 4 + ACTIVATIONS + 100
    )  # enough for one context, not for two
    with pytest.raises(InferenceError, match="out of memory"):
        make(cuda=cuda)
    assert not cuda.live
    assert not cuda.queues


def test_an_engine_of_another_version_is_refused_with_the_librarys_words(make):
    with pytest.raises(BundleError, match=r"TensorRT cannot load .*: Serialization version"):
        make(loads=False)


def test_an_engine_with_another_input_is_refused(make):
    with pytest.raises(BundleError, match="images: HALF"):
        make(kind="HALF")


def test_every_call_of_cuda_is_one_that_its_bindings_take():
    """Names and types of arguments: without a driver each call fails, and as CUDA fails."""
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    if find_gpu() is not None:
        pytest.skip("with a driver, made-up handles would be used")
    cuda, memory = CudaRuntime(), np.zeros(4, np.uint8)
    cuda._addresses[memory.ctypes.data] = memory.ctypes.data
    calls = [
        lambda: cuda.host_memory(16),
        lambda: cuda.free_host(memory),
        lambda: cuda.device_memory(16),
        lambda: cuda.free_device(256),
        cuda.create_stream,
        lambda: cuda.destroy_stream(5),
        lambda: cuda.synchronise(5),
        lambda: cuda.to_device(256, memory, 4, 5),
        lambda: cuda.to_host(memory, 256, 4, 5),
        lambda: cuda.begin_capture(5),
        lambda: cuda.end_capture(5),
        lambda: cuda.launch(7, 5),
        lambda: cuda.destroy_graph(7),
    ]
    for call in calls:
        with pytest.raises(InferenceError, match=r"^CUDA: cuda\w+ failed: .*driver"):
            call()


GPU = Gpu("NVIDIA Test", (8, 9), 24_000, 20_000, "580.1")


def engine(**changes):
    return Engine(compute_capabilities=("8.9",), precision_source="engine inspector").model_copy(
        update=changes
    )


@pytest.mark.parametrize(
    ("changes", "gpu", "version", "words"),
    [
        ({}, GPU, "11.4.0", ""),
        ({}, GPU, None, ""),
        ({}, GPU, "11.5.0", "was built by tensorrt 11.4.0; 11.5.0 is installed"),
        ({"version_compatible": True}, GPU, "11.5.0", ""),
        ({"version_compatible": True}, GPU, "11.3.0", "11.3.0 is installed"),
        ({"compute_capabilities": ("8.6",)}, GPU, "11.4.0", "NVIDIA Test has 8.9"),
        ({}, Gpu("Small", (8, 9), 100, 0, "1"), "11.4.0", "of GPU memory; Small has 0 free"),
    ],
)
def test_preflight_says_what_does_not_fit(artifact, changes, gpu, version, words):
    item = artifact("tensorrt-fp16", runtime="tensorrt", runtime_version="11.4.0")
    found = mismatch(item, engine(**changes), gpu, version)
    assert words in found
    assert bool(words) == bool(found)


def test_an_engine_that_never_ran_is_verified_by_its_first_run(artifact, write, parity, tmp_path):
    images = np.random.default_rng(4).integers(0, 256, (30, *SHAPE), dtype=np.uint8)
    extra = write_pictures(tmp_path, images, mean(images))
    unrun = parity().model_copy(update={"method": "not run: the graph it was built from"})
    item = artifact("e", engine=engine(), parity=unrun, extra_files=(extra,))
    assert not was_run(item)
    bundle = write(item)
    with OnnxRuntime(tmp_path / item.file, max_batch=4) as runtime:
        found = verify(bundle, item, runtime)
    assert found.passed
    assert (found.method, found.images) == ("run", 16)
    assert was_run(item.model_copy(update={"parity": found}))
    write_pictures_of_another_model = mean(images)[:, ::-1]
    (tmp_path / PICTURES_FILE).unlink()
    write_pictures(tmp_path, images, write_pictures_of_another_model)
    with OnnxRuntime(tmp_path / item.file, max_batch=4) as runtime:
        assert not verify(bundle, item, runtime).passed
    (tmp_path / PICTURES_FILE).write_bytes(b"damaged")
    with (
        OnnxRuntime(tmp_path / item.file, max_batch=4) as runtime,
        pytest.raises(BundleError, match="cannot be verified"),
    ):
        verify(bundle, item, runtime)


def test_bound_inputs_and_outputs_give_the_same_logits(artifact, tmp_path, images):
    item = artifact("onnx-fp32")
    with OnnxRuntime(tmp_path / item.file, max_batch=4) as runtime:
        expected = runtime.infer(images)
        np.testing.assert_array_equal(runtime._infer_bound(images), expected)


def test_the_tensorrt_provider_is_told_the_batch_range_and_where_to_keep_engines(
    artifact, tmp_path
):
    batch = artifact("a").batch
    options = TensorRTProvider(batch, tmp_path).options("images", (8, 8, 3))
    shapes = [options[f"trt_profile_{kind}_shapes"] for kind in ("min", "opt", "max")]
    assert shapes == ["images:1x8x8x3", "images:2x8x8x3", "images:4x8x8x3"]
    assert options["trt_engine_cache_path"] == str(tmp_path)
    assert "trt_engine_cache_enable" not in TensorRTProvider(batch).options("images", (8, 8, 3))
