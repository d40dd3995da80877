import contextlib

import pytest
import torch
from torch import nn

from lavit_deploy.common.errors import UsageError
from lavit_deploy.profiles.timing.runner import BatchTooLargeError
from lavit_deploy.profiles.timing.torch_runner import (
    TorchRunner,
    check_device,
    check_runtime,
    torch_threads,
)


class Chain(nn.Module):
    """Three sums in a row: at most two results live at once, the last alone at the end."""

    def forward(self, x):
        self.mode = torch.is_inference_mode_enabled()
        self.dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        return x + 1 + 1 + 1


def test_peak_memory_is_the_bytes_of_the_tensors_alive_together():
    runner = TorchRunner("chain", Chain(), (16, 16))
    runner.prepare(2)
    runner.call()
    images = 2 * 3 * 16 * 16 * 4
    assert 2 * images <= runner.peak_memory() < 2 * images + 64  # PyTorch's copies of the number 1


def test_a_model_runs_under_inference_mode_in_float32():
    model = Chain()
    runner = TorchRunner("chain", model, (8, 8))
    runner.prepare(1)
    assert runner.call() > 0
    assert model.mode
    assert model.dtype is None


def test_lower_precision_is_autocast(tiny_model):
    model = Chain()
    runner = TorchRunner("chain", model, (8, 8), precision="bf16")
    runner.prepare(1)
    runner.call()
    assert model.dtype is torch.bfloat16
    lavit = TorchRunner("lavit", tiny_model, tiny_model.config.image_size, precision="bf16")
    lavit.prepare(2)
    assert lavit.call() > 0


def test_threads_are_set_within_the_block_and_restored_after_it():
    before = torch.get_num_threads()
    with torch_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_a_message():
    with pytest.raises(UsageError, match="no CUDA device"):
        check_device("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_call_is_timed_to_its_end_and_its_memory_counted():
    runner = TorchRunner("chain", Chain(), (256, 256), device="cuda")
    runner.prepare(8)
    assert runner.call() > 0
    assert runner.peak_memory() >= 2 * (8 * 3 * 256 * 256 * 4)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
)
def test_a_failed_allocation_is_a_batch_that_is_too_large(error):
    class Huge(nn.Module):
        def forward(self, x):
            raise error

    runner = TorchRunner("huge", Huge(), (8, 8))
    runner.prepare(5)
    with pytest.raises(BatchTooLargeError, match="huge: a batch of 5"):
        runner.call()


def test_any_other_failure_of_a_model_stays_what_it_is():
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("shapes do not match")

    runner = TorchRunner("broken", Broken(), (8, 8))
    runner.prepare(1)
    with pytest.raises(RuntimeError, match="shapes"):
        runner.call()


def test_cuda_graphs_need_a_gpu():
    with pytest.raises(UsageError, match="--device cuda"):
        check_runtime("cuda-graph", "cpu")
    check_runtime("cuda-graph", "cuda")
    check_runtime("torch-compile", "cpu")


@pytest.fixture
def fake_cuda(monkeypatch):
    """`torch.cuda` as far as a captured call needs it: says what was done, in order."""
    log = []

    class Stream:
        def wait_stream(self, other):
            log.append("wait")

    class Graph:
        def replay(self):
            log.append("replay")

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("record")

        def synchronize(self):
            log.append("synchronize")

        def elapsed_time(self, end):
            return 7.0  # milliseconds

    @contextlib.contextmanager
    def within(what):
        log.append(f"enter {type(what).__name__}")
        yield
        log.append("leave")

    for name, value in {
        "Stream": Stream, "CUDAGraph": Graph, "Event": Event, "stream": within, "graph": within,
        "current_stream": Stream, "synchronize": lambda: log.append("synchronize"),
        "empty_cache": lambda: None,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    # What cannot be had without a GPU: tensors on it, and its autocast.
    monkeypatch.setattr(nn.Module, "to", lambda self, device: self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: self)
    monkeypatch.setattr(TorchRunner, "_autocast", lambda self: contextlib.nullcontext())
    return log


def test_a_cuda_graph_is_captured_for_each_batch_after_warm_up_and_then_replayed(fake_cuda):
    class Told(nn.Module):
        def forward(self, x):
            fake_cuda.append(f"model {len(x)}")

    runner = TorchRunner("told", Told(), (8, 8), device="cuda", runtime="cuda-graph")
    runner.prepare(2)
    assert fake_cuda == [
        "wait", "enter Stream", *["model 2"] * 3, "leave", "wait",
        "enter Graph", "model 2", "leave",
    ]  # fmt: skip
    fake_cuda.clear()
    assert runner.call() == pytest.approx(0.007)
    assert fake_cuda == ["synchronize", "record", "replay", "record", "synchronize"]
    assert runner.peak_memory() is None
    fake_cuda.clear()
    runner.prepare(4)
    assert fake_cuda.count("model 4") == 4
    runner.close()
