"""Int8 in OpenVINO: the Q/DQ graph of ONNX Runtime, the float rest in float32 or bfloat16."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import onnx

from lavit_deploy.common.atomic_files import sha256_of
from lavit_deploy.export.judging.context import Workbench
from lavit_deploy.export.judging.reference import run_artifact
from lavit_deploy.export.quantization.accuracy_search import hold
from lavit_deploy.export.quantization.int8_judge import Judge
from lavit_deploy.export.quantization.options import Quantize
from lavit_deploy.export.quantization.runtime_precision import openvino_precision
from lavit_deploy.export.quantization.scheme import Recipe
from lavit_deploy.export.quantization.sensitivity_report import write_sensitivity
from lavit_deploy.export.request import Request
from lavit_deploy.export.targets.openvino import run_openvino
from lavit_deploy.export.targets.target import Planned, Progress, Step, Target
from lavit_deploy.manifest import Artifact, ExtraFile, Precision, Quantization
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

    def build(self, bench: Workbench, folder: Path, progress: Progress) -> Iterator[Artifact]:
        judge = Judge.of(bench, self.quantize)
        recipe = self.quantize.recipe(bench, folder)
        xml = folder / "model.openvino-int8.xml"
        progress(_name("int8", self.rests[0]))
        start = time.perf_counter()
        kept = _quantize(judge, recipe, xml, self.rests)
        seconds = time.perf_counter() - start
        self.quantize.returned["openvino-int8"] = kept
        write_sensitivity(folder, recipe.sensitivity, self.quantize.returned)
        graph = recipe.quantized(float_blocks=kept)
        for rest in self.rests:
            if rest != self.rests[0]:
                progress(_name("int8", rest))
            logits = _run(judge, xml, rest)
            run = partial(run_openvino, precision=rest)
            about = Quantization(
                method=recipe.method,
                method_errors={str(key): value for key, value in recipe.method_errors.items()},
                rest=rest,
                float_blocks=kept,
                sensitivity=recipe.sensitivity,
                **judge.record(logits, graph, run=run),
            )
            yield _artifact(judge, xml, logits, about, seconds)
        progress("openvino-int8-weights")
        yield _weights(judge, recipe, folder)


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
    judge: Judge, recipe: Recipe, xml: Path, rests: Sequence[Precision]
) -> tuple[str, ...]:
    """Write the IR, and give the blocks that stay float in it."""
    for rest in reversed(rests):
        held = hold(
            judge,
            lambda: recipe.sensitivity,
            lambda blocks: _write(recipe.quantized(float_blocks=blocks), xml),
            partial(_run, judge, xml, rest),
        )
        if held.within:
            return held.float_blocks
    return ()


def _write(graph: onnx.ModelProto, xml: Path) -> None:
    ov = import_openvino()
    model = ov.Core().read_model(graph.SerializeToString())
    ov.save_model(model, xml, compress_to_fp16=False)


def _weights(judge: Judge, recipe: Recipe, folder: Path) -> Artifact:
    xml = folder / "model.openvino-int8-weights.xml"
    start = time.perf_counter()
    held = hold(
        judge,
        lambda: recipe.weights_sensitivity,
        lambda blocks: _write(recipe.weights(float_blocks=blocks), xml),
        partial(_run, judge, xml, "fp32"),
    )
    seconds = time.perf_counter() - start
    about = Quantization(
        method="weights",
        rest="fp32",
        float_blocks=held.float_blocks,
        sensitivity=recipe.weights_sensitivity if held.float_blocks else {},
        **judge.record(held.logits, None),
    )
    return _artifact(judge, xml, held.logits, about, seconds)


def _run(judge: Judge, xml: Path, rest: Precision) -> Logits:
    with _opened(judge, xml, rest) as runtime:
        return run_artifact(runtime, judge.bench.pictures.images, judge.bench.sizes)


def _opened(judge: Judge, xml: Path, rest: Precision) -> OpenVinoRuntime:
    return OpenVinoRuntime(xml, max_batch=judge.bench.batch.maximum, precision=rest)


def _artifact(
    judge: Judge, xml: Path, logits: Logits, about: Quantization, seconds: float
) -> Artifact:
    precision: Precision = "int8-weights" if about.method == "weights" else "int8"
    with _opened(judge, xml, about.rest) as runtime:
        types = runtime.compute_types()
    found = openvino_precision(xml, types)
    weights = xml.with_suffix(".bin")
    parity = partial(judge.parity, logits, precision, None)
    return Artifact(
        name=_name(precision, about.rest),
        file=xml.name,
        sha256=sha256_of(xml),
        size_bytes=xml.stat().st_size,
        extra_files=(
            ExtraFile(
                file=weights.name, sha256=sha256_of(weights), size_bytes=weights.stat().st_size
            ),
        ),
        runtime="openvino",
        runtime_version=import_openvino().__version__,
        format_version="OpenVINO IR 11",
        precision_requested=precision,
        precision_found=found,
        folded=judge.bench.folded is not None,
        compute_types=dict(types),
        batch=judge.bench.batch,
        devices=("cpu",),
        device="cpu",
        build_seconds=round(seconds, 2),
        parity=parity(found=found, about=about),
        quantization=about,
    )
