import os
import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from lavit_deploy.common.errors import BundleError, InferenceError, UsageError
from lavit_deploy.runtimes.openvino import OpenVinoRuntime, cpu_precisions


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """logits = a fixed product of the mean colour: uint8 [B, 4, 4, 3] -> float32 [B, 16]."""
    weights = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["images"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["wide", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["logits"]),
    ]
    made = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 4, 4, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 16])],
        [
            helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
            helper.make_tensor("weights", TensorProto.FLOAT, [3, 16], weights.ravel()),
        ],
    )
    path = tmp_path_factory.mktemp("openvino") / "product.onnx"
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    save(model, path)
    return path, weights


@pytest.fixture
def images():
    return np.random.default_rng(1).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)


def exact(images, weights):
    return images.mean(axis=(1, 2)) @ weights.astype(np.float64)


def test_float32_computes_the_graph(graph, images):
    path, weights = graph
    with OpenVinoRuntime(path, max_batch=8) as runtime:
        assert runtime.compute_types() == {"fp32": 1}
        assert runtime.input.shape == (None, 4, 4, 3)
        for size in (1, 5, 2):
            # three float32 products of values up to 255
            expected = exact(images[:size], weights)
            np.testing.assert_allclose(runtime.infer(images[:size]), expected, rtol=1e-4, atol=1e-3)


def test_an_answer_is_not_changed_by_the_next_call(graph, images):
    with OpenVinoRuntime(graph[0], max_batch=8) as runtime:
        first = runtime.infer(images[:2])
        kept = first.copy()
        runtime.infer(images[2:4])
        np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("streams", [1, 2, 3])
def test_a_batch_keeps_its_order_whatever_the_streams(graph, streams):
    path, weights = graph
    images = np.random.default_rng(2).integers(0, 256, (8, 4, 4, 3), dtype=np.uint8)
    with OpenVinoRuntime(path, max_batch=8, threads=3, streams=streams) as runtime:
        for size in range(1, 9):
            expected = exact(images[:size], weights)
            np.testing.assert_allclose(runtime.infer(images[:size]), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("streams", [0, 3])
def test_more_streams_than_threads_are_refused(graph, streams):
    with pytest.raises(UsageError, match=f"{streams} streams for 2 threads: expected 1 to 2"):
        OpenVinoRuntime(graph[0], max_batch=8, threads=2, streams=streams)


def test_models_that_share_the_cores_are_not_pinned_to_the_same_ones(graph, monkeypatch):
    monkeypatch.setattr("lavit_deploy.runtimes.openvino.available_cores", lambda: 2)
    with OpenVinoRuntime(graph[0], max_batch=8, threads=1) as runtime:
        assert runtime._compiled.get_property("ENABLE_CPU_PINNING") is False


def test_compiled_models_are_kept_where_asked(graph, images, tmp_path):
    path, weights = graph
    for _ in range(2):
        with OpenVinoRuntime(path, max_batch=8, cache=tmp_path) as runtime:
            expected = exact(images, weights)
            np.testing.assert_allclose(runtime.infer(images), expected, rtol=1e-4, atol=1e-3)
        kept = sorted(file.name for file in tmp_path.iterdir())
        assert len(kept) == 2  # one for a picture, one for a batch


def test_bfloat16_is_found_in_the_compiled_graph(graph, images):
    if "bf16" not in cpu_precisions():
        pytest.skip("this CPU has no bfloat16 instructions")
    path, weights = graph
    with OpenVinoRuntime(path, max_batch=8, precision="bf16") as runtime:
        assert runtime.compute_types() == {"bf16": 1}
        expected = exact(images, weights)
        difference = np.abs(runtime.infer(images) - expected).max()
    # 8 bits of significand: visible, and small against the largest logit
    assert 0 < difference < 0.05 * np.abs(expected).max()


def test_a_precision_that_the_cpu_lacks_is_refused(graph):
    with pytest.raises(UsageError, match="does not compute in int8"):
        OpenVinoRuntime(graph[0], max_batch=8, precision="int8")


def test_a_closed_model_says_so(graph, images):
    runtime = OpenVinoRuntime(graph[0], max_batch=8)
    runtime.close()
    runtime.close()
    with pytest.raises(InferenceError, match="closed"):
        runtime.infer(images)


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "m.xml").write_text("hello")
    with pytest.raises(BundleError, match="openvino cannot open"):
        OpenVinoRuntime(tmp_path / "m.xml", max_batch=8)


EXCHANGED = """
import os, signal, sys, threading
from pathlib import Path

import numpy as np
from lavit_deploy.runtimes.openvino import OpenVinoRuntime

signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
images = np.ones((3, 4, 4, 3), dtype=np.uint8)
held = [OpenVinoRuntime(Path(sys.argv[1]), max_batch=8)]
before = held[0].infer(images)
os.truncate(Path(sys.argv[1]).with_suffix(".bin"), 0)
assert (held[0].infer(images) == before).all()
closing = threading.Thread(target=held[0].close)
closing.start()
closing.join()
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are of POSIX")
def test_a_model_closed_in_another_thread_and_its_file_leave_the_process_alone(graph, tmp_path):
    import openvino as ov

    file = tmp_path / "product.xml"
    ov.save_model(ov.Core().read_model(graph[0]), file)
    done = subprocess.run(
        [sys.executable, "-c", EXCHANGED, str(file)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


HOMELESS = """
import pwd, sys

def nobody(_):
    raise KeyError

pwd.getpwuid = nobody
from lavit_deploy.runtimes.openvino import cpu_precisions

assert "fp32" in cpu_precisions()
assert sys.modules["openvino_telemetry"] is None
"""


@pytest.mark.skipif(sys.platform == "win32", reason="accounts of POSIX")
def test_an_account_without_a_home_can_run_models_and_nothing_is_reported():
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    done = subprocess.run(
        [sys.executable, "-c", HOMELESS],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
