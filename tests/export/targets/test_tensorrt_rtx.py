"""TensorRT-RTX itself, which builds engines without a GPU; they cannot be run here."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.bundle.selection import Criteria, select
from lavit_deploy.common.errors import BundleError, ExportError, UsageError
from lavit_deploy.common.gpu import find_gpu
from lavit_deploy.export.cli import main
from lavit_deploy.export.graphs.onnx_graph import write_onnx
from lavit_deploy.export.graphs.precision import to_precision
from lavit_deploy.export.judging.context import BuildContext, Built
from lavit_deploy.export.judging.parity_pictures import ParityPictures
from lavit_deploy.export.judging.reference import reference_logits
from lavit_deploy.export.request import EngineOptions, Request
from lavit_deploy.export.targets.tensorrt import TensorRTTarget, plan_tensorrt, plan_tensorrt_rtx
from lavit_deploy.export.tensorrt.builder import build_engine, check_compute_capabilities
from lavit_deploy.export.tensorrt.tf32 import as_tf32
from lavit_deploy.folding.fold import fold
from lavit_deploy.manifest import BatchRange
from lavit_deploy.runtimes.tensorrt_library import import_library

pytestmark = pytest.mark.slow

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")

BATCH = BatchRange(minimum=1, optimum=2, maximum=16)
needs_no_gpu = pytest.mark.skipif(find_gpu() is not None, reason="this machine has a GPU")


@pytest.fixture(scope="module")
def library():
    return import_library("tensorrt_rtx")


@pytest.fixture(scope="module")
def graphs(tiny_checkpoint, tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs")
    folded = fold(tiny_model, tiny_checkpoint.preprocess).model
    return {
        precision: write_onnx(
            tiny_checkpoint,
            to_precision(folded, precision),
            folder / f"{precision}.onnx",
            batch=BATCH,
            precision=precision,
        )
        for precision in ("fp32", "fp16", "bf16")
    }


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_an_engine_computes_in_the_precision_of_its_graph(library, graphs, precision):
    steps = []
    plan = build_engine(
        library, graphs[precision], EngineOptions(), batch=BATCH, gpu=False, progress=steps.append
    )
    assert plan.found.precision == precision
    assert plan.found.source == "network layers"
    assert not plan.tf32
    assert len(plan.content) > 10_000
    assert any(step.startswith("Building engine ") for step in steps)


def test_tf32_is_on_only_where_it_is_asked_for(library, graphs):
    options = EngineOptions(tf32=True, compute_capabilities=("8.6",), optimization_level=0)
    plan = build_engine(library, graphs["fp32"], options, batch=BATCH, gpu=False)
    assert plan.tf32
    assert plan.found.precision == "tf32"


def test_a_quantized_graph_gives_an_int8_engine(library, graphs, tmp_path):
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Noise(CalibrationDataReader):
        def __init__(self):
            generator = np.random.default_rng(3)
            shape = (2, 32, 32, 3)
            self.batches = iter(
                {"images": generator.integers(0, 256, shape, dtype=np.uint8)} for _ in range(2)
            )

        def get_next(self):
            return next(self.batches, None)

    source, target = tmp_path / "fp32.onnx", tmp_path / "int8.onnx"
    onnx.save(graphs["fp32"], source)
    quantize_static(
        source,
        target,
        Noise(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul"],
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "MatMulConstBOnly": True,
        },
    )
    quantized = onnx.shape_inference.infer_shapes(onnx.load(target))
    plan = build_engine(library, quantized, EngineOptions(), batch=BATCH, gpu=False)
    assert plan.found.precision == "int8"
    assert plan.found.products["fp32"] > 0  # products of two activations stay


def test_what_the_parser_refuses_is_shown_with_its_node(library):
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["wide"], to=TensorProto.FLOAT, name="widen"),
            helper.make_node("Mystery", ["wide"], ["logits"], name="riddle", domain="elsewhere"),
        ],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 4, 4, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4, 4, 3])],
    )
    opsets = [helper.make_opsetid("", 22), helper.make_opsetid("elsewhere", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    with pytest.raises(ExportError, match=r"node 1 'riddle' \(elsewhere::Mystery -> logits\)"):
        build_engine(library, model, EngineOptions(), batch=BATCH, gpu=False)


def test_a_compute_capability_that_the_library_lacks_is_refused(library):
    check_compute_capabilities(library, ("8.6", "8.9"))
    with pytest.raises(UsageError, match=r"compiles for 7\.5, 8\.0, 8\.6, 8\.9, 12\.0, 12\.1"):
        check_compute_capabilities(library, ("9.0",))


@needs_no_gpu
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"refit": True}, "--refit: TensorRT-RTX builds such engines only where a GPU is"),
        ({"strip": True}, "--strip: TensorRT-RTX builds such engines only where a GPU is"),
        ({"version_compatible": True}, "--version-compatible is for TensorRT;"),
        ({"hardware_compatible": True}, "--hardware-compatible is for TensorRT;"),
        ({"less_attention": "plugin"}, "--la plugin needs --plugin"),
    ],
)
def test_options_that_cannot_be_had_are_refused_before_anything_is_built(options, message):
    request = Request(frozenset({"tensorrt-rtx"}), engine=EngineOptions(**options))
    with pytest.raises(UsageError, match=message):
        plan_tensorrt_rtx(request)


@needs_no_gpu
def test_a_build_that_the_library_gives_up_says_why(library, graphs):
    with pytest.raises(ExportError, match=r"TensorRT-RTX could not build the engine: .*Error"):
        build_engine(library, graphs["fp16"], EngineOptions(strip=True), batch=BATCH, gpu=False)


@needs_no_gpu
def test_tensorrt_is_left_out_without_a_gpu_and_refused_by_name():
    (step,) = plan_tensorrt(Request()).steps
    assert step.action == "skip"
    assert "no NVIDIA GPU here" in step.why
    assert plan_tensorrt_rtx(Request()).steps == ()
    with pytest.raises(UsageError, match="tensorrt-rtx builds without one"):
        plan_tensorrt(Request(frozenset({"tensorrt"})))


@needs_no_gpu
def test_an_exported_engine_does_not_claim_to_have_run(tiny_checkpoint_file, tmp_path, unmeasured):
    # Engines are not timed on a CPU, and the other artifacts' timings are tested elsewhere.
    out = tmp_path / "b"
    arguments = ["--ckpt", str(tiny_checkpoint_file), "--fp16", "--out", str(out), "--batch"]
    arguments += ["1", "2", "16", "--target", "tensorrt-rtx", "--compute-capability", "8.6", "8.9"]
    assert main([*arguments, "--tf32"]) == 0
    bundle = Bundle.open(out)
    tf32 = bundle.artifact("tensorrt-rtx-tf32")
    fp16 = bundle.artifact("tensorrt-rtx-fp16")
    assert (tf32.precision_found, fp16.precision_found) == ("tf32", "fp16")
    assert fp16.engine.compute_capabilities == ("8.6", "8.9")
    assert fp16.engine.less_attention_why == "no plugin library was given"
    assert fp16.timings == ()
    assert fp16.parity.method.startswith("not run: the graph it was built from")
    assert 0 < tf32.parity.max_difference < fp16.parity.max_difference * 100
    assert select(bundle, Criteria()).artifact.runtime == "onnxruntime"
    with pytest.raises(BundleError, match="cannot run on cpu, only on cuda"):
        select(bundle, Criteria("tensorrt-rtx-fp16"))
    with pytest.raises(BundleError, match="needs an NVIDIA GPU, and there is none here"):
        select(bundle, Criteria("tensorrt-rtx-fp16", device="cuda"))
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["artifacts"][-1]["engine"]["precision_source"] == "network layers"


def test_an_engine_of_another_precision_fails(
    library, graphs, tiny_checkpoint, tiny_model, tiny_preprocess, pictures, tmp_path
):
    """A graph that claims half precision and computes in float32 makes an engine that fails."""
    reference = reference_logits(tiny_model, pictures, tiny_preprocess)
    lying = Built("fp16", tmp_path / "model.fp16.onnx", graphs["fp32"], 0.0)
    context = BuildContext(
        tiny_checkpoint,
        tiny_model,
        ParityPictures(pictures, "test", ()),
        reference,
        BATCH,
        "cpu",
        _graphs={"fp16": lying},
    )
    target = TensorRTTarget(library, ("fp16",), EngineOptions(), None)
    (artifact,) = target.build(context, tmp_path, lambda _step: None)
    assert not artifact.passed
    assert artifact.failure.reason == "asked for fp16, the artifact computes in fp32"


def test_tf32_rounds_factors_to_eleven_bits():
    rows = np.random.default_rng(0).standard_normal((1, 64), dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "identity"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])],
        [numpy_helper.from_array(np.eye(64, dtype=np.float32), "identity")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    import onnxruntime

    session = onnxruntime.InferenceSession(
        as_tf32(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"x": rows})
    # Closed form: to the nearest multiple of 2^(exponent - 11), exact in float64.
    mantissa, exponent = np.frexp(rows.astype(np.float64))
    expected = np.ldexp(np.round(np.ldexp(mantissa, 11)), exponent - 11)
    np.testing.assert_array_equal(found, expected.astype(np.float32))
