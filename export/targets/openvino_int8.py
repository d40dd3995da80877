"""Int8 in OpenVINO: the Q/DQ graph of ONNX Runtime, the float rest in float32 or bfloat16."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import onnx

from lavit_deploy.export.judging.context import BuildContext, extra_file
from lavit_deploy.export.judging.reference import run_artifact
from lavit_deploy.export.quantization.accuracy_search import search_within_loss
from lavit_deploy.export.quantization.int8_judge import Judge
from lavit_deploy.export.quantization.options import Quantize
from lavit_deploy.export.quantization.runtime_precision import openvino_precision
from lavit_deploy.export.quantization.scheme import Scheme
from lavit_deploy.export.quantization.sensitivity_report import write_sensitivity
from lavit_deploy.export.request import Request
from lavit_deploy.export.targets.openvino import run_openvino
from lavit_deploy.export.targets.target import Planned, Progress, Step, Target
from lavit_deploy.manifest import Artifact, Precision, Quantization
from lavit_deploy.runtimes.base import Logits
from lavit_deploy.runtimes.openvino import OpenVinoRuntime, cpu_precisions, import_openvino


@dataclass(frozen=True)
class OpenVinoInt8Target(Target):
    """IRs with int8.

    Attributes:
        quantize: pictures and the allowed loss.
        rests: precisions of what is not int8, float32 first. One file serves both, so its blocks
            are chosen for the last one, which loses most; where that cannot hold, for another.
    """

    quantize: Quantize
    rests: tuple[Precision, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return (*(_name("int8", rest) for rest in self.rests), "openvino-int8-weights")

    def build(self, context: BuildContext, folder: Path, progress: Progress) -> Iterator[Artifact]:
        judge = Judge.of(context, self.quantize)
        scheme = self.quantize.scheme(context, folder)
        xml = folder / "model.openvino-int8.xml"
        progress(_name("int8", self.rests[0]))
        start = time.perf_counter()
        kept = _quantize(judge, scheme, xml, self.rests)
        seconds = time.perf_counter() - start
        self.quantize.returned["openvino-int8"] = kept
        write_sensitivity(folder, scheme.sensitivity, self.quantize.returned)
        graph = scheme.quantized(float_blocks=kept)
        for rest in self.rests:
            if rest != self.rests[0]:
                progress(_name("int8", rest))
            logits = _run(judge, xml, rest)
            run = partial(run_openvino, precision=rest)
            about = Quantization(
                method=scheme.method,
                method_errors={str(key): value for key, value in scheme.method_errors.items()},
                rest=rest,
                float_blocks=kept,
                sensitivity=scheme.sensitivity,
                **judge.record(logits, graph, run=run),
            )
            yield _artifact(judge, xml, logits, about, seconds)
        progress("openvino-int8-weights")
        yield _weights(judge, scheme, folder)


def plan_openvino_int8(request: Request) -> Planned:
    """Where int8 is asked for, and OpenVINO is installed.

    Raises:
        MissingDependencyError: OpenVINO is asked for by name, and is missing.
    """
    if request.quantize is None or not request.wants("openvino"):
        return Planned(())
    if find_spec("openvino") is None:
        if request.names("openvino"):
            import_openvino()
        why = 'not installed: pip install "lavit-deploy[openvino]"'
        return Planned((Step("openvino-int8", "skip", why),))
    target = OpenVinoInt8Target(request.quantize, cpu_precisions())
    steps = tuple(Step(name, "build", _why(name)) for name in target.labels)
    extras = frozenset(target.labels)
    if request.names("openvino"):
        extras = frozenset({"openvino-int8-weights"})
    return Planned(steps, target, extras)


def _why(name: str) -> str:
    if name.endswith("weights"):
        return "a quarter of the size; OpenVINO rounds activations as they come"
    return f"the Q/DQ graph, the rest in {'bfloat16' if name.endswith('bf16') else 'float32'}"


def _name(precision: Precision, rest: Precision) -> str:
    return f"openvino-{precision}" + ("" if rest == "fp32" else f"-{rest}")


def _quantize(
    judge: Judge, scheme: Scheme, xml: Path, rests: Sequence[Precision]
) -> tuple[str, ...]:
    """Write the IR, and give the blocks that stay float in it."""
    for rest in reversed(rests):
        outcome = search_within_loss(
            judge,
            lambda: scheme.sensitivity,
            lambda blocks: _write(scheme.quantized(float_blocks=blocks), xml),
            partial(_run, judge, xml, rest),
        )
        if outcome.within:
            return outcome.float_blocks
    return ()


def _write(graph: onnx.ModelProto, xml: Path) -> None:
    ov = import_openvino()
    model = ov.Core().read_model(graph.SerializeToString())
    ov.save_model(model, xml, compress_to_fp16=False)


def _weights(judge: Judge, scheme: Scheme, folder: Path) -> Artifact:
    xml = folder / "model.openvino-int8-weights.xml"
    start = time.perf_counter()
    outcome = search_within_loss(
        judge,
        lambda: scheme.weights_sensitivity,
        lambda blocks: _write(scheme.weights(float_blocks=blocks), xml),
        partial(_run, judge, xml, "fp32"),
    )
    seconds = time.perf_counter() - start
    about = Quantization(
        method="weights",
        rest="fp32",
        float_blocks=outcome.float_blocks,
        sensitivity=scheme.weights_sensitivity if outcome.float_blocks else {},
        **judge.record(outcome.logits, None),
    )
    return _artifact(judge, xml, outcome.logits, about, seconds)


def _run(judge: Judge, xml: Path, rest: Precision) -> Logits:
    with _opened(judge, xml, rest) as runtime:
        return run_artifact(runtime, judge.context.pictures.images, judge.context.sizes)


def _opened(judge: Judge, xml: Path, rest: Precision) -> OpenVinoRuntime:
    return OpenVinoRuntime(xml, max_batch=judge.context.batch.maximum, precision=rest)


def _artifact(
    judge: Judge, xml: Path, logits: Logits, about: Quantization, seconds: float
) -> Artifact:
    precision: Precision = "int8-weights" if about.method == "weights" else "int8"
    with _opened(judge, xml, about.rest) as runtime:
        types = runtime.compute_types()
    found = openvino_precision(xml, types)
    return judge.context.artifact(
        xml,
        name=_name(precision, about.rest),
        extra_files=(extra_file(xml.with_suffix(".bin")),),
        runtime="openvino",
        version=import_openvino().__version__,
        form="OpenVINO IR 11",
        asked=precision,
        found=found,
        types=types,
        devices=("cpu",),
        device="cpu",
        seconds=seconds,
        parity=judge.parity(logits, precision, None, found=found, about=about),
        quantization=about,
    )
