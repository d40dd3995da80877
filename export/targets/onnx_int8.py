"""Int8 in ONNX: one Q/DQ graph for ONNX Runtime and TensorRT, and one with int8 weights alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from lavit_deploy.common.atomic_files import atomic_path
from lavit_deploy.export.graphs.onnx_graph import OPSET
from lavit_deploy.export.judging.context import BuildContext
from lavit_deploy.export.judging.reference import run_artifact
from lavit_deploy.export.quantization.accuracy_search import search_within_loss
from lavit_deploy.export.quantization.calibration import Split
from lavit_deploy.export.quantization.int8_judge import Judge
from lavit_deploy.export.quantization.options import Quantize
from lavit_deploy.export.quantization.runtime_precision import onnxruntime_types
from lavit_deploy.export.quantization.scheme import Scheme
from lavit_deploy.export.quantization.sensitivity_report import write_sensitivity
from lavit_deploy.export.request import Request
from lavit_deploy.export.targets.target import Planned, Progress, Step, Target
from lavit_deploy.manifest import Artifact, Precision, Quantization
from lavit_deploy.runtimes.base import Logits
from lavit_deploy.runtimes.onnxruntime import OnnxRuntime, import_onnxruntime

_LISTED = 20
"""Unreadable files that the plan names."""

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

    def build(self, context: BuildContext, folder: Path, progress: Progress) -> Iterator[Artifact]:
        judge = Judge.of(context, self.quantize)
        scheme = self.quantize.scheme(context, folder)
        progress("onnx-int8")
        yield _int8(judge, scheme, folder, self.quantize.returned)
        progress("onnx-int8-weights")
        yield _weights(judge, scheme, folder)


def plan_onnx_int8(request: Request) -> Planned:
    """Both graphs, where int8 is asked for."""
    if request.quantize is None:
        return Planned(())
    split = request.quantize.split
    steps = (
        Step("calibration", "check", f"on {split.calibration.source}"),
        *(Step("warning", "check", text) for text in (split.warning,) if text),
        *(Step("unreadable", "skip", text) for text in _few(split)),
        Step("onnx-int8", "build", "Q/DQ, for ONNX Runtime and TensorRT"),
        Step("onnx-int8-weights", "build", "a quarter of the size, computes in float32"),
    )
    return Planned(steps, OnnxInt8Target(request.quantize), frozenset({"onnx-int8-weights"}))


def _few(split: Split) -> tuple[str, ...]:
    """The unreadable files, and of very many the first ones and their number."""
    skipped = (*split.calibration.skipped, *split.held_out.skipped)
    more = len(skipped) - _LISTED
    return skipped if more <= 0 else (*skipped[:_LISTED], f"and {more} more files")


def _int8(
    judge: Judge, scheme: Scheme, folder: Path, returned: dict[str, tuple[str, ...]]
) -> Artifact:
    start = time.perf_counter()
    file = folder / "model.int8.onnx"
    outcome = search_within_loss(
        judge,
        lambda: scheme.sensitivity,
        lambda blocks: _write(scheme.quantized(float_blocks=blocks), file, "int8"),
        lambda: _run(judge, file),
    )
    seconds = time.perf_counter() - start
    returned["onnx-int8"] = outcome.float_blocks
    write_sensitivity(folder, scheme.sensitivity, returned)
    about = Quantization(
        method=scheme.method,
        method_errors={str(key): value for key, value in scheme.method_errors.items()},
        float_blocks=outcome.float_blocks,
        sensitivity=scheme.sensitivity,
        **judge.record(outcome.logits, onnx.load(file)),
    )
    return _artifact(judge, file, outcome.logits, about, seconds)


def _weights(judge: Judge, scheme: Scheme, folder: Path) -> Artifact:
    start = time.perf_counter()
    file = folder / "model.int8-weights.onnx"
    outcome = search_within_loss(
        judge,
        lambda: scheme.weights_sensitivity,
        lambda blocks: _write(scheme.weights(float_blocks=blocks), file, "int8-weights"),
        lambda: _run(judge, file),
    )
    seconds = time.perf_counter() - start
    about = Quantization(
        method="weights",
        float_blocks=outcome.float_blocks,
        sensitivity=scheme.weights_sensitivity if outcome.float_blocks else {},
        **judge.record(outcome.logits, onnx.load(file)),
    )
    return _artifact(judge, file, outcome.logits, about, seconds)


def _write(graph: onnx.ModelProto, file: Path, precision: Precision) -> None:
    for prop in graph.metadata_props:
        if prop.key == "precision":
            prop.value = precision
    with atomic_path(file) as temporary:
        onnx.save(graph, temporary)


def _run(judge: Judge, file: Path) -> Logits:
    with OnnxRuntime(file, max_batch=judge.context.batch.maximum, device="cpu") as runtime:
        return run_artifact(runtime, judge.context.pictures.images, judge.context.sizes)


def _artifact(
    judge: Judge, file: Path, logits: Logits, about: Quantization, seconds: float
) -> Artifact:
    precision: Precision = "int8-weights" if about.method == "weights" else "int8"
    types = onnxruntime_types(file)
    found = types.most_common(1)[0][0]
    return judge.context.artifact(
        file,
        name=f"onnx-{precision}",
        runtime="onnxruntime",
        version=import_onnxruntime().__version__,
        form=f"opset {OPSET}",
        asked=precision,
        found=found,
        types=types,
        devices=("cpu",),
        device="cpu",
        seconds=seconds,
        parity=judge.parity(logits, precision, onnx.load(file), found=found, about=about),
        quantization=about,
    )
