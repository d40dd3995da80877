"""Building one artifact and judging it against the float32 PyTorch model."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict, Unpack

import onnx
from torch import nn

from lavit_deploy.checkpoint import Checkpoint
from lavit_deploy.common.atomic_files import sha256_of
from lavit_deploy.export.graphs.onnx_graph import OPSET, write_onnx
from lavit_deploy.export.graphs.precision import compute_types, precision_found, to_precision
from lavit_deploy.export.judging.divergence import GraphRunner, first_divergent_layer
from lavit_deploy.export.judging.half_precision import widen
from lavit_deploy.export.judging.parity_pictures import ParityPictures
from lavit_deploy.export.judging.reference import run_artifact
from lavit_deploy.manifest import (
    Artifact,
    BatchRange,
    BatchTiming,
    Device,
    Engine,
    ExtraFile,
    Footprint,
    Kernels,
    Parity,
    Precision,
    Quantization,
)
from lavit_deploy.runtimes.base import Logits
from lavit_deploy.runtimes.onnxruntime import OnnxRuntime, import_onnxruntime
from lavit_deploy.tasks.catalogue import AnyTask, find_task

_LAYER_PICTURES = 4


@dataclass(frozen=True)
class Built:
    """A graph on disk that has not been judged yet.

    Attributes:
        precision: what was asked for.
        file: where it lies.
        graph: its content, with inferred types.
        seconds: time the build took.
    """

    precision: Precision
    file: Path
    graph: onnx.ModelProto
    seconds: float


class SpecialFields(TypedDict, total=False):
    """Fields of `Artifact` that only some artifacts have, or have otherwise than the others."""

    extra_files: tuple[ExtraFile, ...]
    folded: bool
    batch: BatchRange
    compute_capability: str | None
    plugin: str | None
    plugin_sha256: str | None
    engine: Engine
    kernels: Kernels
    quantization: Quantization
    rounded_parity: Parity | None
    timings: tuple[BatchTiming, ...]
    footprint: Footprint | None
    undelegated_operators: dict[str, int]
    undelegated_share: float | None


@dataclass(frozen=True)
class BuildContext:
    """What every artifact of one export is built from and compared with.

    Attributes:
        checkpoint: where names and preprocessing come from.
        model: the float32 reference.
        pictures: what parity is measured on.
        reference: the reference's logits of those pictures [B, K].
        batch: batch sizes of the artifacts.
        device: where artifacts run, if their runtime has kernels for their precision there.
        folded: the same function in fewer operators, to build from; None to build from `model`.
    """

    checkpoint: Checkpoint
    model: nn.Module
    pictures: ParityPictures
    reference: Logits
    batch: BatchRange
    device: Device
    folded: nn.Module | None = None
    _graphs: dict[Precision, Built] = field(default_factory=dict)

    def graph(self, precision: Precision, folder: Path) -> Built:
        """The ONNX graph of one precision, written into `folder` when it is first asked for.

        Raises:
            ExportError: the graph could not be built, or is invalid.
        """
        if precision not in self._graphs:
            self._graphs[precision] = self._build(precision, folder)
        return self._graphs[precision]

    def _build(self, precision: Precision, folder: Path) -> Built:
        file = folder / f"model.{precision}.onnx"
        start = time.perf_counter()
        model = to_precision(self.folded or self.model, precision)
        graph = write_onnx(self.checkpoint, model, file, batch=self.batch, precision=precision)
        return Built(precision, file, graph, time.perf_counter() - start)

    def judge(self, built: Built) -> Artifact:
        """Read the precision back, run the graph, and compare it with the reference."""
        precision = built.precision
        devices = _devices(precision)
        device: Device = self.device if self.device in devices else "cpu"
        parity = self._as_it_is(built, device) if device in devices else self._rounded(built)
        rounded = None
        if device == "cpu" and parity.method == "run" and precision != "fp32":
            rounded = self._rounded(built)
        found = precision_found(built.graph)
        return self.artifact(
            built.file,
            name=f"onnx-{precision}",
            runtime="onnxruntime",
            version=import_onnxruntime().__version__,
            form=f"opset {OPSET}",
            asked=precision,
            found=found,
            types=compute_types(built.graph),
            devices=devices,
            device=device,
            seconds=built.seconds,
            parity=with_precision(parity, precision, found),
            rounded_parity=rounded,
        )

    def artifact(
        self,
        file: Path,
        *,
        name: str,
        runtime: str,
        version: str,
        form: str,
        asked: Precision,
        found: str,
        types: Mapping[str, int],
        devices: tuple[Device, ...],
        device: Device,
        seconds: float,
        parity: Parity,
        folder: Path | None = None,
        **special: Unpack[SpecialFields],
    ) -> Artifact:
        """What the manifest says of a file that was built and judged.

        Args:
            file: the artifact, in the bundle that is being written.
            name: unique within the bundle.
            runtime: which runtime opens it.
            version: version of the runtime that checked it.
            form: version of its format.
            asked: the precision that was asked for.
            found: the precision that was read from it.
            types: number of its products by element type.
            devices: devices that its runtime has kernels for.
            device: where it was checked.
            seconds: time its build took.
            parity: the comparison with the reference.
            folder: the bundle, where the file lies deeper in it; default: the file's folder.
            special: what only some artifacts have, or have otherwise than the export as a whole.
        """
        whole: SpecialFields = {"folded": self.folded is not None, "batch": self.batch}
        return Artifact(
            name=name,
            file=file.relative_to(folder or file.parent).as_posix(),
            sha256=sha256_of(file),
            size_bytes=file.stat().st_size,
            runtime=runtime,
            runtime_version=version,
            format_version=form,
            precision_requested=asked,
            precision_found=found,
            compute_types=dict(types),
            devices=devices,
            device=device,
            build_seconds=round(seconds, 2),
            parity=parity,
            **(whole | special),
        )

    def _as_it_is(self, built: Built, device: Device) -> Parity:
        logits = self._run(built.file, device)
        return self.verdict(logits, built.precision, built.graph)

    def _rounded(self, built: Built) -> Parity:
        """Parity of what half-precision hardware computes, found on a CPU (see `widening`)."""
        wide = widen(built.graph, built.precision)
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "widened.onnx"
            onnx.save(wide, file)
            logits = self._run(file, "cpu")
        method = f"computed in float32, every result rounded to {built.precision}"
        return self.verdict(logits, built.precision, wide, method=method)

    def verdict(
        self,
        logits: Logits,
        precision: Precision,
        graph: onnx.ModelProto | None,
        *,
        method: str = "run",
        run: GraphRunner | None = None,
    ) -> Parity:
        """Compare logits with the reference; after a failure, name the layer that departs first.

        Args:
            logits: the artifact's logits of `pictures` [B, K].
            precision: decides the tolerance.
            graph: ONNX graph of the artifact, to find the layer in; None where there is none.
            method: how the artifact was run.
            run: runs the graph as the artifact does; default: ONNX Runtime.
        """
        parity = self.task.compare(
            logits, self.reference, precision, source=self.pictures.source, method=method
        )
        if parity.passed or graph is None:
            return parity
        layer = first_divergent_layer(
            graph,
            self.model,
            self.pictures.images[:_LAYER_PICTURES],
            self.checkpoint.preprocess,
            tolerance=self.task.tolerance(precision),
            run=run,
        )
        return parity.model_copy(update={"first_divergent_layer": layer})

    def _run(self, file: Path, device: Device) -> Logits:
        with OnnxRuntime(file, max_batch=self.batch.maximum, device=device) as runtime:
            return run_artifact(runtime, self.pictures.images, self.sizes)

    @property
    def task(self) -> AnyTask:
        """What the outputs mean, and how they are compared."""
        return find_task(self.checkpoint.family.task)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Batch sizes that parity cycles through."""
        return (1, self.batch.optimum, min(3, self.batch.maximum))


def extra_file(file: Path, folder: Path | None = None) -> ExtraFile:
    """The record of a file that an artifact needs beside its own.

    Args:
        file: lies in the bundle.
        folder: the bundle, where the file lies deeper in it; default: the file's folder.
    """
    return ExtraFile(
        file=file.relative_to(folder or file.parent).as_posix(),
        sha256=sha256_of(file),
        size_bytes=file.stat().st_size,
    )


def with_precision(parity: Parity, asked: Precision, found: str) -> Parity:
    """The comparison, failed if the artifact computes in another precision than was asked for."""
    if found == asked:
        return parity
    reason = f"asked for {asked}, the artifact computes in {found}"
    return parity.model_copy(update={"passed": False, "reason": reason})


def _devices(precision: Precision) -> tuple[Device, ...]:
    """Devices for which ONNX Runtime has kernels of a precision."""
    return ("cuda",) if precision == "bf16" else ("cpu", "cuda")
