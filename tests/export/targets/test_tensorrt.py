"""TensorRT 10 and 11, which cannot be installed here, as a module of the same shape.

`tensorrt_api.json` holds the public names of the real bindings. The fake's classes take their names
from it, so whatever the builder asks of TensorRT exists in both versions, or the test fails.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from onnx import TensorProto, helper

from lavit_deploy.common.errors import ExportError, UsageError
from lavit_deploy.common.gpu import Gpu
from lavit_deploy.export.request import EngineOptions
from lavit_deploy.export.targets.tensorrt import TensorRTTarget
from lavit_deploy.export.tensorrt.build_monitor import BuildPhases
from lavit_deploy.export.tensorrt.builder import build_engine, check_compute_capabilities
from lavit_deploy.export.tensorrt.engine_precision import Found, confirm, read_inspector
from lavit_deploy.manifest import BatchRange
from lavit_deploy.runtimes.tensorrt_library import Library

API = json.loads((Path(__file__).parents[2] / "support" / "tensorrt_api.json").read_text())
VERSIONS = ["10.16.1.11", "11.4.0.106"]
BATCH = BatchRange(minimum=1, optimum=2, maximum=4)


def enumeration(names):
    """Members with names and numbers, as pybind makes them."""
    made = {}
    for number, name in enumerate(n for n in names if n.isupper()):
        kind = type(
            "Member",
            (),
            {
                "__init__": lambda self, name, number: self.__dict__.update(name=name, n=number),
                "__int__": lambda self: self.n,
                "__hash__": lambda self: hash(self.name),
                "__eq__": lambda self, other: self.name == other.name,
            },
        )
        made[name] = kind(name, number)
    return SimpleNamespace(**made)


class Guarded:
    """Refuses attributes that the real class does not have."""

    names: tuple[str, ...] = ()

    def __setattr__(self, name, value):
        assert name.startswith("_") or name in self.names, f"{type(self).__name__}.{name}"
        super().__setattr__(name, value)


class FakeTensorRT:
    """The module, and a record of what was asked of it."""

    def __init__(self, version, layers="Half"):  # noqa: C901 - one small class after another
        api = API[version]
        self.__version__ = version
        self.record = {"flags": set(), "profile": [], "network_flags": None, "cache": None}
        record = self.record
        for name in (
            "BuilderFlag",
            "NetworkDefinitionCreationFlag",
            "HardwareCompatibilityLevel",
            "ProfilingVerbosity",
            "MemoryPoolType",
            "LayerType",
            "DataType",
            "LayerInformationFormat",
        ):
            setattr(self, name, enumeration(api[name]))
        fake = self

        class ILogger:
            Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3)

        class Config(Guarded):
            names = api["IBuilderConfig"]

            def set_flag(self, flag):
                record["flags"].add(flag.name)

            def clear_flag(self, flag):
                record["flags"].discard(flag.name)

            def get_flag(self, flag):
                return flag.name in record["flags"]

            def set_memory_pool_limit(self, pool, size):
                record["memory"] = (pool.name, size)

            def add_optimization_profile(self, profile):
                record["profile"] = profile.shapes

            def create_timing_cache(self, content):
                return None if content == b"of another version" else SimpleNamespace(seed=content)

            def set_timing_cache(self, cache, ignore_mismatch):
                assert not ignore_mismatch
                record["cache"] = cache.seed
                return True

            def get_timing_cache(self):
                return SimpleNamespace(serialize=lambda: record["cache"] + b"+")

        class Profile:
            shapes = ()

            def set_shape(self, name, *shapes):
                self.shapes = (name, *shapes)

        class Builder(Guarded):
            names = api["Builder"]

            def __init__(self, logger):
                self._logger = logger

            def create_network(self, flags):
                record["network_flags"] = flags
                return SimpleNamespace(
                    num_layers=1,
                    get_layer=lambda _index: product(fake, "HALF"),
                    get_input=lambda _index: SimpleNamespace(name="images", shape=(-1, 4, 4, 3)),
                )

            def create_builder_config(self):
                record["config"] = Config()
                return record["config"]

            def create_optimization_profile(self):
                return Profile()

            def build_serialized_network(self, _network, config):
                monitor = config.progress_monitor
                monitor.phase_start("Building engine", None, 2)
                for step in range(2):
                    if not monitor.step_complete("Building engine", step):
                        return None
                monitor.phase_finish("Building engine")
                return b"plan"

        class Engine:
            def create_engine_inspector(self):
                text = json.dumps({"Layers": [gemm(layers)]})
                return SimpleNamespace(get_engine_information=lambda _format: text)

        class Runtime:
            def __init__(self, logger):
                pass

            def deserialize_cuda_engine(self, plan):
                assert plan == b"plan"
                return Engine()

        class OnnxParser:
            num_errors = 0

            def __init__(self, network, logger):
                pass

            def parse(self, content):
                onnx.load_from_string(content)
                return True

        for ours, real in [
            (Config, "IBuilderConfig"),
            (Builder, "Builder"),
            (Engine, "ICudaEngine"),
            (Runtime, "Runtime"),
            (OnnxParser, "OnnxParser"),
            (Profile, "IOptimizationProfile"),
        ]:
            public = {n for n in vars(ours) if not n.startswith("_")} - {"names", "shapes"}
            assert public <= set(api[real]), f"{real} {version} has no {public - set(api[real])}"
        self.ILogger, self.Builder, self.Runtime, self.OnnxParser = (
            ILogger,
            Builder,
            Runtime,
            OnnxParser,
        )
        self.IProgressMonitor = type("IProgressMonitor", (), {})
        used = ("ILogger", "Builder", "Runtime", "OnnxParser", "IProgressMonitor", "BuilderFlag")
        assert set(used) <= set(api["module"])


def product(fake, kind):
    def tensor(name):
        return SimpleNamespace(name=name, dtype=SimpleNamespace(name=kind), shape=(3, 3))

    return SimpleNamespace(
        type=fake.LayerType.MATRIX_MULTIPLY,
        num_inputs=2,
        num_outputs=1,
        get_input=lambda index: tensor(f"in{index}"),
        get_output=lambda _index: tensor("out"),
    )


def gemm(kind):
    tensors = [{"Name": "x", "Dimensions": [1, 3], "Format/Datatype": kind}]
    return {"Name": "m", "LayerType": "gemm", "Inputs": tensors, "Outputs": tensors}


@pytest.fixture
def graph():
    """logits = mean colour."""
    nodes = [
        helper.make_node("Cast", ["images"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["wide", "axes"], ["logits"], keepdims=0),
    ]
    made = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 4, 4, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_option_reaches_the_builder(version, graph, tmp_path):
    trt = FakeTensorRT(version)
    options = EngineOptions(
        hardware_compatible=True,
        version_compatible=True,
        refit=True,
        strip=True,
        optimization_level=5,
        memory_gib=2.5,
    )
    plan = build_engine(Library("tensorrt", trt), graph, options, batch=BATCH, gpu=True)
    record = trt.record
    assert record["flags"] == {"REFIT", "STRIP_PLAN", "VERSION_COMPATIBLE"}
    assert record["memory"] == ("WORKSPACE", 2.5 * 2**30)
    assert record["profile"] == ("images", (1, 4, 4, 3), (2, 4, 4, 3), (4, 4, 4, 3))
    assert record["config"].builder_optimization_level == 5
    assert record["config"].hardware_compatibility_level.name == "AMPERE_PLUS"
    assert record["config"].profiling_verbosity.name == "DETAILED"
    assert plan.found == Found("fp16", {"fp16": 1}, "engine inspector")


@pytest.mark.parametrize("version", VERSIONS)
def test_networks_are_strongly_typed_in_both_versions(version, graph):
    trt = FakeTensorRT(version)
    build_engine(Library("tensorrt", trt), graph, EngineOptions(), batch=BATCH, gpu=False)
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert trt.record["network_flags"] == (typed if version.startswith("10.") else 0)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_that_fell_back_to_float32_is_seen(version, graph):
    """The network is half, the engine that came out of the builder is not."""
    trt = FakeTensorRT(version, layers="Row major linear FP32")
    plan = build_engine(Library("tensorrt", trt), graph, EngineOptions(), batch=BATCH, gpu=True)
    assert plan.found.precision == "fp32"


def test_timings_are_kept_for_the_next_build(graph, tmp_path):
    file = tmp_path / "timing.cache"
    library = Library("tensorrt", FakeTensorRT("11.4.0.106"))
    options = EngineOptions(timing_cache=file)
    for expected in (b"+", b"++"):
        build_engine(library, graph, options, batch=BATCH, gpu=False)
        assert file.read_bytes() == expected
    file.write_bytes(b"of another version")
    build_engine(library, graph, options, batch=BATCH, gpu=False)
    assert file.read_bytes() == b"+"


def test_ctrl_c_stops_a_build(graph):
    def interrupt(_step):
        raise KeyboardInterrupt

    library = Library("tensorrt", FakeTensorRT("11.4.0.106"))
    with pytest.raises(KeyboardInterrupt):
        build_engine(library, graph, EngineOptions(), batch=BATCH, gpu=False, progress=interrupt)


def test_a_compute_capability_is_for_rtx_alone():
    library = Library("tensorrt", FakeTensorRT("11.4.0.106"))
    with pytest.raises(UsageError, match="--compute-capability is for TensorRT-RTX"):
        check_compute_capabilities(library, ("8.6",))


def test_pixels_that_are_not_cast_first_are_refused(graph):
    graph.graph.node[0].op_type = "Relu"
    with pytest.raises(ExportError, match="read by Relu"):
        build_engine(
            Library("tensorrt", FakeTensorRT("11.4.0.106")),
            graph,
            EngineOptions(),
            batch=BATCH,
            gpu=False,
        )


@pytest.mark.parametrize(
    ("spelling", "precision"),
    [
        ("Row major linear FP16 format", "fp16"),
        ("Half", "fp16"),
        ("BF16", "bf16"),
        ("Float", "fp32"),
        ("Int8", "int8"),
        ("FP8", "fp8"),
    ],
)
def test_the_inspectors_spellings_are_understood(spelling, precision):
    assert read_inspector(json.dumps({"Layers": [gemm(spelling)]})).precision == precision


def test_layers_that_multiply_nothing_do_not_count():
    layers = [gemm("Half"), *({**gemm("Float"), "LayerType": "kgen"} for _ in range(5)), "a name"]
    assert read_inspector(json.dumps({"Layers": layers})).products == {"fp16": 1}


def test_an_inspector_that_names_no_product_does_not_overrule_the_network():
    network = Found("fp16", {"fp16": 3, "fp32": 1}, "network layers")
    assert confirm(network, Found("none", {}, "engine inspector")) == network


def test_fused_products_may_shift_the_shares():
    network = Found("fp16", {"fp16": 56, "fp32": 12}, "network layers")
    fused = Found("fp32", {"fp16": 10, "fp32": 12}, "engine inspector")
    assert confirm(network, fused).precision == "fp16"
    lost = Found("fp32", {"fp16": 2, "fp32": 60}, "engine inspector")
    assert confirm(network, lost).precision == "fp32"


def test_phases_report_where_they_are():
    lines = []
    phases = BuildPhases(lines.append)
    phases.start("Building engine", 2)
    phases.start("Timing kernels", 1000)
    phases.step("Timing kernels", 4)
    phases.finish("Timing kernels")
    phases.step("Building engine", 0)
    assert lines == ["Building engine 0/2", "Timing kernels 0/1000", "Building engine 1/2"]


def test_a_plugin_that_cannot_be_built_does_not_end_an_export_that_did_not_ask_for_it(
    monkeypatch, tmp_path
):
    def candidate(_self, _bench, _folder, _precision, form, _progress):
        if form == "plugin":
            raise ExportError("no such creator")
        return form

    monkeypatch.setattr(TensorRTTarget, "_candidate", candidate)
    library = Library("tensorrt", FakeTensorRT("11.4.0.106"))
    gpu = Gpu("NVIDIA Test", (9, 0), 1, 1, "580")

    def built(asked):
        options = EngineOptions(less_attention=asked, plugin=tmp_path / "plugin.so")
        target = TensorRTTarget(library, ("fp16",), options, gpu)
        return target._candidates(None, tmp_path, "fp16", print)

    assert built("auto") == (["native"], "the plugin form failed: no such creator")
    assert built("native") == (["native"], "")
    with pytest.raises(ExportError, match="no such creator"):
        built("plugin")
