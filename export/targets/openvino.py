"""OpenVINO's own format, the IR: a graph (`.xml`) and its weights (`.bin`)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx

from lavit_deploy.common.errors import ExportError
from lavit_deploy.export.judging.context import BuildContext, extra_file, with_precision
from lavit_deploy.export.judging.reference import run_artifact
from lavit_deploy.export.request import Request
from lavit_deploy.export.targets.target import Planned, Progress, Step, Target
from lavit_deploy.manifest import Artifact, ExtraFile, Precision
from lavit_deploy.preprocess import Pixels
from lavit_deploy.runtimes.openvino import (
    OpenVinoRuntime,
    cpu_precisions,
    import_openvino,
    precision_config,
)


@dataclass(frozen=True)
class OpenVinoTarget(Target):
    """One IR with float32 weights, judged in each precision that this CPU computes natively.

    What OpenVINO computes in is decided when the IR is compiled, so one file serves all.

    Attributes:
        precisions: which to judge, float32 first.
    """

    precisions: tuple[Precision, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(f"openvino-{precision}" for precision in self.precisions)

    def build(self, context: BuildContext, folder: Path, progress: Progress) -> Iterator[Artifact]:
        for precision in self.precisions:
            progress(f"openvino-{precision}")
            yield _artifact(context, folder, precision)


def plan_openvino(request: Request) -> Planned:
    """Every precision of this CPU, where OpenVINO is installed.

    Raises:
        MissingDependencyError: OpenVINO is asked for by name and not installed.
    """
    if not request.wants("openvino"):
        return Planned(())
    if find_spec("openvino") is None and not request.names("openvino"):
        why = 'not installed: pip install "lavit-deploy[openvino]"'
        return Planned((Step("openvino", "skip", why),))
    precisions = cpu_precisions()
    steps = [Step("openvino-fp32", "build", "a second CPU runtime, exact to float32")]
    if "bf16" in precisions:
        steps.append(Step("openvino-bf16", "build", "this CPU multiplies bfloat16 natively"))
    else:
        steps.append(Step("openvino-bf16", "skip", "this CPU has no bfloat16 instructions"))
    names = frozenset(f"openvino-{precision}" for precision in precisions)
    extras = frozenset() if request.names("openvino") else names
    return Planned(tuple(steps), OpenVinoTarget(precisions), extras)


def _artifact(context: BuildContext, folder: Path, precision: Precision) -> Artifact:
    """Convert the float32 graph, unless that was done before, and compare it in one precision."""
    source = context.graph("fp32", folder)
    start = time.perf_counter()
    xml = folder / "model.openvino.xml"
    weights = ensure_ir(source.file, xml)
    with OpenVinoRuntime(xml, max_batch=context.batch.maximum, precision=precision) as runtime:
        seconds = time.perf_counter() - start
        logits = run_artifact(runtime, context.pictures.images, context.sizes)
        types = runtime.compute_types()
    run = partial(run_openvino, precision=precision)
    parity = context.verdict(logits, precision, source.graph, run=run)
    found = types.most_common(1)[0][0]
    return context.artifact(
        xml,
        name=f"openvino-{precision}",
        extra_files=(weights,),
        runtime="openvino",
        version=import_openvino().__version__,
        form="OpenVINO IR 11",
        asked=precision,
        found=found,
        types=types,
        devices=("cpu",),
        device="cpu",
        seconds=seconds,
        parity=with_precision(parity, precision, found),
    )


def ensure_ir(graph: Path, xml: Path) -> ExtraFile:
    """Convert an ONNX file, keeping float32 weights, unless that was done before.

    The reader inside the runtime is used, because the converter beside it reports its use to its
    maker.

    Args:
        graph: a float32 ONNX file.
        xml: where the IR belongs; its `.bin` lies beside it.

    Returns:
        The `.bin`.

    Raises:
        ExportError: the graph cannot be read, or the IR not be written.
    """
    weights = xml.with_suffix(".bin")
    if not xml.exists():
        ov = import_openvino()
        try:
            ov.save_model(ov.Core().read_model(graph), xml, compress_to_fp16=False)
        except RuntimeError as error:  # a full disk, too, which it calls an "iostream error"
            raise ExportError(f"OpenVINO could not write {graph.name} as {xml}: {error}") from error
    return extra_file(weights)


def run_openvino(
    graph: onnx.ModelProto, outputs: list[str], images: Pixels, *, precision: Precision
) -> list[np.ndarray]:
    """Run a graph on pictures in OpenVINO and give some of its outputs."""
    core = import_openvino().Core()
    compiled = core.compile_model(
        core.read_model(graph.SerializeToString()), "CPU", precision_config(precision)
    )
    results = compiled([images])
    return [results[name] for name in outputs]
