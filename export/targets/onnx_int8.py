"""Int8 in ONNX: one Q/DQ graph for ONNX Runtime and TensorRT, and one with int8 weights alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from export.onnx_graph import OPSET
from export.parity import run_artifact
from export.quantization.asked import Quantize
from export.quantization.judging import Judge
from export.quantization.qdq import insert
from export.quantization.readback import onnxruntime_types
from export.quantization.recipe import Recipe, search
from export.quantization.sensitivity import write_sensitivity
from export.request import Request
from export.targets.base import Planned, Progress, Step, Target
from export.workbench import Workbench
from lavit_deploy.files import atomic_path, sha256_of
from lavit_deploy.manifest import Artifact, Precision, Quantization
from lavit_deploy.runtimes.base import Logits
from lavit_deploy.runtimes.onnxruntime import OnnxRuntime, import_onnxruntime

_LABELS = ("onnx-int8", "onnx-int8-weights")


@dataclass(frozen=True)
class OnnxInt8Target(Target):
    """Q/DQ graphs.

    Attributes:
        quantize: pictures and the allowed loss.
    """

    quantize: Quantize

    @property
    def labels(self) -> tuple[str, ...]:
        return _LABELS

    def build(self, bench: Workbench, folder: Path, progress: Progress) -> Iterator[Artifact]:
        judge = Judge.of(bench, self.quantize)
        recipe = self.quantize.recipe(bench, folder)
        progress("onnx-int8")
        yield _int8(judge, recipe, folder)
        progress("onnx-int8-weights")
        yield _weights(judge, recipe, folder)


def plan_onnx_int8(request: Request) -> Planned:
    """Both graphs, where int8 is asked for."""
    if request.quantize is None:
        return Planned(())
    split = request.quantize.split
    steps = (
        Step("calibration", "check", f"on {split.calibration.source}"),
        *(Step("warning", "check", text) for text in (split.warning,) if text),
        *(
            Step("unreadable", "skip", text)
            for text in (*split.calibration.skipped, *split.held_out.skipped)
        ),
        Step("onnx-int8", "build", "Q/DQ, for ONNX Runtime and TensorRT"),
        Step("onnx-int8-weights", "build", "a quarter of the size, computes in float32"),
    )
    return Planned(steps, OnnxInt8Target(request.quantize), frozenset({"onnx-int8-weights"}))


def _int8(judge: Judge, recipe: Recipe, folder: Path) -> Artifact:
    start = time.perf_counter()
    file = folder / "model.int8.onnx"

    def logits_with(float_blocks: tuple[str, ...]) -> Logits:
        _write(recipe.quantized(float_blocks=float_blocks), file, "int8")
        return _run(judge, file)

    kept = search(
        lambda: recipe.sensitivity, lambda kept: judge.loss(logits_with(kept)), judge.max_drop
    )
    logits = logits_with(kept)
    seconds = time.perf_counter() - start
    write_sensitivity(folder, recipe.sensitivity, {"onnx-int8": kept})
    about = Quantization(
        method=recipe.method,
        method_errors={str(key): value for key, value in recipe.method_errors.items()},
        float_blocks=kept,
        sensitivity=recipe.sensitivity,
        **judge.record(logits, onnx.load(file)),
    )
    return _artifact(judge, file, logits, about, seconds)


def _weights(judge: Judge, recipe: Recipe, folder: Path) -> Artifact:
    start = time.perf_counter()
    file = folder / "model.int8-weights.onnx"
    _write(insert(recipe.graph, recipe.products, None), file, "int8-weights")
    seconds = time.perf_counter() - start
    logits = _run(judge, file)
    about = Quantization(method="weights", **judge.record(logits, onnx.load(file)))
    return _artifact(judge, file, logits, about, seconds)


def _write(graph: onnx.ModelProto, file: Path, precision: Precision) -> None:
    for prop in graph.metadata_props:
        if prop.key == "precision":
            prop.value = precision
    with atomic_path(file) as temporary:
        onnx.save(graph, temporary)


def _run(judge: Judge, file: Path) -> Logits:
    with OnnxRuntime(file, max_batch=judge.bench.batch.maximum, device="cpu") as runtime:
        return run_artifact(runtime, judge.bench.pictures.images, judge.bench.sizes)


def _artifact(
    judge: Judge, file: Path, logits: Logits, about: Quantization, seconds: float
) -> Artifact:
    precision: Precision = "int8-weights" if about.method == "weights" else "int8"
    types = onnxruntime_types(file)
    return Artifact(
        name=f"onnx-{precision}",
        file=file.name,
        sha256=sha256_of(file),
        size_bytes=file.stat().st_size,
        runtime="onnxruntime",
        runtime_version=import_onnxruntime().__version__,
        format_version=f"opset {OPSET}",
        precision_requested=precision,
        precision_found=types.most_common(1)[0][0],
        folded=judge.bench.folded is not None,
        compute_types=dict(types),
        batch=judge.bench.batch,
        devices=("cpu",),
        device="cpu",
        build_seconds=round(seconds, 2),
        parity=judge.parity(
            logits, precision, onnx.load(file), found=types.most_common(1)[0][0], about=about
        ),
        quantization=about,
    )
