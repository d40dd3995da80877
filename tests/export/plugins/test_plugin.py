"""The plugin itself: compiled, loaded, and built into engines by TensorRT-RTX on this machine.

Wants a C++ compiler, CMake, the CUDA toolkit, Triton, and TensorRT's headers, found as by `make
plugin`: in TENSORRT_INCLUDE, or in an installed TensorRT.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lavit_deploy.checkpoint import load_checkpoint, save_checkpoint
from lavit_deploy.common.errors import ExportError, UsageError
from lavit_deploy.export.graphs.onnx_graph import write_onnx
from lavit_deploy.export.graphs.plugin_graph import fold_for_plugin, for_onnxruntime
from lavit_deploy.export.graphs.precision import to_precision
from lavit_deploy.export.plugins import compile_kernels
from lavit_deploy.export.plugins.compile_kernels import (
    SHARED_BYTES,
    TARGETS,
    KernelVariant,
    compile_variant,
    variants,
)
from lavit_deploy.export.tensorrt.uint8_input import cast_first
from lavit_deploy.kernels.rewrite_less_attention import round_scores
from lavit_deploy.kernels.tile_sizes import SOME_KEYS, tile_for
from lavit_deploy.manifest import BatchRange
from lavit_deploy.model.config import lavit_s
from lavit_deploy.model.lavit import LaViT

ROOT = Path(__file__).parents[3]
BATCH = BatchRange(minimum=1, optimum=8, maximum=64)


def tool(name):
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def need(module, reason):
    if importlib.util.find_spec(module) is None:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """The plugin, with kernels for one device; the others differ in their number only."""
    need("triton", "Triton is not installed")
    cmake, _ = tool("cmake"), tool("c++")
    build = tmp_path_factory.mktemp("plugin")
    configured = subprocess.run(
        [
            cmake, "-S", ROOT / "export" / "plugins", "-B", build,
            f"-DLAVIT_PYTHON={sys.executable}", "-DLAVIT_TARGETS=80",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if configured.returncode:
        said = " ".join(configured.stderr.split())
        for missing in ("NvInferRuntime.h is not found", "Could NOT find CUDAToolkit"):
            if missing in said:
                pytest.skip(f"the plugin cannot be compiled here: {missing}")
        pytest.fail(said)
    subprocess.run([cmake, "--build", build], check=True, capture_output=True)
    return build / "liblavit_plugin.so"


@pytest.fixture(scope="session")
def graphs(tmp_path_factory):
    """Graphs with plugin nodes: the digits in every precision, and a lavit_s in float16."""
    folder = tmp_path_factory.mktemp("graphs")
    digits = load_checkpoint(ROOT / "examples" / "lavit_digits.pth")
    torch.manual_seed(3)
    save_checkpoint(
        folder / "lavit_s.pth",
        LaViT(lavit_s()),
        preprocess=digits.preprocess.model_copy(update={"crop": (224, 224), "resize": 256}),
        classes=[str(index) for index in range(1000)],
    )
    large = load_checkpoint(folder / "lavit_s.pth")
    files = {}
    for checkpoint, precision, half in (
        (digits, "fp32", None),
        (digits, "fp16", None),
        (digits, "fp16", torch.float16),
        (digits, "bf16", torch.bfloat16),
        (large, "fp16", None),
    ):
        model = to_precision(fold_for_plugin(checkpoint, checkpoint.build()).model, precision)
        if half is not None:
            round_scores(model, half)
        name = f"{checkpoint.architecture} {precision}{' scores too' if half else ''}"
        file = folder / f"{name.replace(' ', '_')}.onnx"
        graph = write_onnx(checkpoint, model, file, batch=BATCH, precision=precision)
        file.write_bytes(cast_first(graph).SerializeToString())
        files[name] = file
    return files


BUILDER = """
import json, sys
import tensorrt_rtx as trt

class Logger(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
        self.errors = []
    def log(self, severity, message):
        if severity <= trt.ILogger.ERROR:
            self.errors.append(message)

logger = Logger()
registry = trt.get_plugin_registry()
if "autoload" in sys.argv[1]:
    import ctypes
    ctypes.CDLL(sys.argv[1])
else:
    registry.load_library(sys.argv[1])
report = {"creators": [[c.name, c.plugin_version] for c in registry.all_creators
                       if c.plugin_namespace == "lavit"]}
for file in sys.argv[2:]:
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(file)
    plugins = [layer for layer in map(network.get_layer, range(network.num_layers))
               if layer.type == trt.LayerType.PLUGIN_V3]
    engine = None
    if parsed:
        config = builder.create_builder_config()
        profile = builder.create_optimization_profile()
        size = tuple(network.get_input(0).shape)[1:]
        profile.set_shape(network.get_input(0).name, (1, *size), (8, *size), (64, *size))
        config.add_optimization_profile(profile)
        engine = builder.build_serialized_network(network, config)
    report[file] = {
        "errors": [str(parser.get_error(i)) for i in range(parser.num_errors)] + logger.errors,
        "outputs": [[layer.get_output(i).dtype.name for i in range(layer.num_outputs)]
                    for layer in plugins],
        "bytes": None if engine is None else engine.nbytes,
    }
    # Engines hold what a plugin says of itself: name, version, namespace, fields.
    report[file]["mentions"] = 0 if engine is None else bytes(engine).count(b"with_scores")
    logger.errors.clear()
print(json.dumps(report))
"""


@pytest.fixture(scope="session")
def build(library, tmp_path_factory):
    """Builds engines of graphs in a process of its own, whose loader finds TensorRT-RTX."""
    need("tensorrt_rtx", "tensorrt_rtx is not installed")
    libraries = importlib.util.find_spec("tensorrt_rtx_libs").submodule_search_locations[0]
    links = tmp_path_factory.mktemp("rtx")
    (links / "libtensorrt_rtx.so").symlink_to(next(Path(libraries).glob("libtensorrt_rtx.so.*")))

    def run(*files, name="liblavit_plugin.so"):
        done = subprocess.run(
            [sys.executable, "-c", BUILDER, library.with_name(name), *files],
            env={**os.environ, "LD_LIBRARY_PATH": str(links)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_tensorrt_rtx_builds_engines_with_the_plugin(build, graphs):
    report = build(*graphs.values())
    assert report["creators"] == [["LessAttention", "1"]]
    found = {name: report[str(file)] for name, file in graphs.items()}
    for name, result in found.items():
        assert result["bytes"], (name, result["errors"])
        assert result["mentions"] >= len(result["outputs"])
    outputs = {name: result["outputs"] for name, result in found.items()}
    plain, scores = "lavit_micro fp32", "lavit_micro fp16 scores too"
    assert outputs[plain] == [["FLOAT"], ["FLOAT", "FLOAT"], ["FLOAT"], ["FLOAT"]]
    assert outputs["lavit_micro fp16"] == [["HALF"], ["HALF", "FLOAT"], ["HALF"], ["HALF"]]
    assert outputs[scores] == [["HALF"], ["HALF", "HALF"], ["HALF"], ["HALF"]]
    assert outputs["lavit_micro bf16 scores too"][1] == ["BF16", "BF16"]
    assert len(outputs["lavit_s fp16"]) == 6


def test_a_program_that_only_opens_libraries_gets_the_plugin_too(build, graphs, tmp_path):
    import onnx

    file = tmp_path / "onnxruntime.onnx"
    onnx.save(for_onnxruntime(onnx.load(graphs["lavit_micro fp16"])), file)
    report = build(file, name="liblavit_plugin_autoload.so")
    assert report["creators"] == [["LessAttention", "1"]]
    assert report[str(file)]["bytes"]


def test_a_graph_that_the_plugin_cannot_compute_is_refused_with_the_reason(build, graphs, tmp_path):
    import onnx

    graph = onnx.load(graphs["lavit_micro fp32"])
    node = next(node for node in graph.graph.node if node.domain == "lavit")
    node.input[1] = node.input[2]  # T [M, M] where P [N, N] should be
    file = tmp_path / "wrong.onnx"
    onnx.save(graph, file)
    result = build(file)[str(file)]
    assert result["bytes"] is None
    assert any("P [4, 4]" in message and "do not fit" in message for message in result["errors"])


def test_the_library_needs_no_tensorrt_and_no_driver_to_be_loaded(library):
    loaded = ctypes.CDLL(str(library))
    loaded.lavitTargets.restype = ctypes.c_char_p
    loaded.lavitTensorRTVersion.restype = ctypes.c_int64
    assert loaded.lavitTargets() == b"80"
    assert loaded.lavitTensorRTVersion() >= 10_00_00
    listing = subprocess.run(
        [tool("readelf"), "--dynamic", library], capture_output=True, text=True, check=True
    ).stdout
    needed = re.findall(r"NEEDED.*\[(.*?)\]", listing)
    assert not [name for name in needed if "nvinfer" in name or "cuda" in name]


@pytest.fixture(scope="session")
def host(library):
    """The plugin's own launch, linked with a CUDA runtime that only takes notes."""
    build = library.parent
    subprocess.run(
        [tool("cmake"), "--build", build, "--target", "lavit_plugin_host"],
        check=True, capture_output=True,
    )  # fmt: skip
    program = build / "lavit_plugin_host"

    def run(*numbers):
        done = subprocess.run(
            [program, *map(str, numbers)], capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout.splitlines()

    return run


@pytest.mark.parametrize(
    ("capability", "batch", "heads", "tokens", "keys", "channels", "with_scores"),
    [(80, 8, 5, 196, 49, 64, 1), (86, 3, 8, 49, 49, 64, 0), (87, 1, 3, 197, 197, 80, 1)],
)
def test_the_kernel_is_called_with_the_tile_and_the_numbers_of_the_operator(
    host, capability, batch, heads, tokens, keys, channels, with_scores
):
    code, lines = host(capability, batch, heads, tokens, keys, channels, with_scores)
    assert code == 0
    assert lines[0] == lines[1]
    assert lines[2] == "loaded 1"  # once, for both calls
    found = [int(number) for number in lines[0].split()]
    tile = tile_for(tokens, keys, "half")
    blocks = -(-tokens // tile.block_n)
    assert found[:4] == [batch * heads * blocks, -(-channels // tile.block_d), 1, 32 * tile.warps]
    assert found[4] == found[5] > 0  # shared memory, and as much allowed
    assert found[6:13] == [16, 32, 48, 64, 80, 96, 112 if with_scores else 0]
    values = torch.empty(batch, heads, keys, channels)
    out = torch.empty(batch, heads, tokens, channels)
    assert found[13:] == [
        tokens, keys, channels, heads, *values.stride()[:3], *out.stride()[:3], with_scores, 1,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        # 3 * 2^30 programs, and 2^32 numbers of P
        (
            (80, 2**28, 12, 49, 49, 64, 0),
            "the shapes are too large: the kernels count to 2147483647",
        ),
        ((80, 1, 1, 65536, 49, 64, 0), "the shapes are too large: the kernels count to 2147483647"),
        ((80, 1, 1, 49, 49, 64, 0, 24), "an address is no multiple of 16"),
    ],
)
def test_what_the_kernels_cannot_be_called_with_is_refused(host, numbers, message):
    assert host(*numbers) == (1, [message])


def test_the_largest_batches_are_within_the_limits(host):
    """Pictures beyond 2^31 scores: the kernel's offsets of whole pictures are 64 bits wide."""
    code, lines = host(80, 65536, 8, 196, 49, 64, 1)
    assert code == 0
    assert int(lines[0].split()[0]) == 65536 * 8 * 7


def test_a_gpu_without_kernels_is_named(host):
    code, lines = host(90, 1, 1, 49, 49, 64, 0)
    assert code == 1
    assert lines == ["this library has kernels for compute capability 80 (ten times), not for 90"]


def test_missing_headers_are_explained(tmp_path):
    cmake = tool("cmake")
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    # The search is told to look below an empty folder instead of below /.
    nowhere = tmp_path / "root"
    nowhere.mkdir()
    blind = [f"-DCMAKE_FIND_ROOT_PATH={nowhere}", "-DCMAKE_FIND_ROOT_PATH_MODE_INCLUDE=ONLY"]
    done = subprocess.run(
        [cmake, "-S", ROOT / "export" / "plugins", "-B", tmp_path / "build", *blind],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode != 0
    assert "make plugin TENSORRT_INCLUDE=" in " ".join(done.stderr.split())


def test_kernels_are_compiled_with_no_registers_spilled():
    need("triton", "Triton is not installed")
    first = next(iter(variants(90)))
    made = compile_variant(first)
    assert made.cubin.startswith(b"\x7fELF")
    assert made.stack == 0
    assert made.registers <= 248  # two blocks of 128 threads; docs/reports/la-kernel timed them


# The largest tile of each pair of types; sm_86, sm_89 have sm_80's instructions.
@pytest.mark.parametrize("target", [86, 90, 120])
@pytest.mark.parametrize("scores", ["fp16", "fp32"])
def test_the_largest_tiles_fit_into_every_gpus_shared_memory(target, scores):
    need("triton", "Triton is not installed")
    largest = next(
        item
        for item in variants(target)
        if (item.scores, item.values) == (scores, scores) and item.most_keys == SOME_KEYS
    )
    made = compile_variant(largest)
    assert 0 < made.shared <= SHARED_BYTES[target]


def test_a_kernel_that_wants_too_much_shared_memory_is_not_built(monkeypatch):
    need("triton", "Triton is not installed")
    monkeypatch.setitem(compile_kernels.SHARED_BYTES, 86, 1024)
    with pytest.raises(ExportError, match=r"wants \d+ bytes of shared memory, sm_86 has 1024"):
        compile_variant(next(iter(variants(86))))


def test_the_table_has_every_target_and_the_most_special_kernel_first():
    for target in TARGETS:
        listed = list(variants(target))
        assert len(set(listed)) == len(listed) == 20
        for kind in {(item.scores, item.values) for item in listed}:
            keys = [
                (item.most_keys, -item.tile.align_n)
                for item in listed
                if (item.scores, item.values) == kind
            ]
            assert keys == sorted(keys)


def test_files_hold_every_kernel_where_the_table_says(tmp_path):
    chosen: list[KernelVariant] = list(variants(80))[:2]
    made = [
        compile_kernels.Compiled(item, bytes([index + 1]) * (5 + index), 1024, 100, 0)
        for index, item in enumerate(chosen)
    ]
    compile_kernels.write(made, tmp_path)
    blob = (tmp_path / "kernels.bin").read_bytes()
    rows = (tmp_path / "kernel_table.inc").read_text().splitlines()
    for row, item in zip(rows, made, strict=True):
        offset, size = (int(number) for number in row.rstrip("},").split(", ")[-2:])
        assert blob[offset : offset + size] == item.cubin
        assert offset % 16 == 0


def test_a_target_that_is_not_known_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"--targets \[70\]: expected some of \[80, 86"):
        compile_kernels.main(["--targets", "70", "--out", str(tmp_path)])
