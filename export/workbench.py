"""Building one artifact and judging it against the float32 PyTorch model."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx

from export.departure import GraphRunner, first_departure
from export.onnx_graph import OPSET, write_onnx
from export.openvino_ir import ensure_ir, run_openvino
from export.parity import TOLERANCES, compare, run_artifact
from export.pictures import Pictures
from export.precision import compute_types, precision_found, to_precision
from export.widening import widen
from lavit_deploy.checkpoint import Checkpoint
from lavit_deploy.files import sha256_of
from lavit_deploy.folding.modules import FoldedLaViT
from lavit_deploy.manifest import Artifact, BatchRange, Device, Parity, Precision
from lavit_deploy.model import LaViT
from lavit_deploy.runtimes.base import Logits
from lavit_deploy.runtimes.onnxruntime import OnnxRuntime, import_onnxruntime
from lavit_deploy.runtimes.openvino import OpenVinoRuntime, import_openvino

_DEPARTURE_PICTURES = 4


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


@dataclass(frozen=True)
class Workbench:
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
    model: LaViT
    pictures: Pictures
    reference: Logits
    batch: BatchRange
    device: Device
    folded: FoldedLaViT | None = None

    def build(self, precision: Precision, folder: Path) -> Built:
        """Write the ONNX graph of one precision into `folder`.

        Raises:
            ExportError: the graph could not be built, or is invalid.
        """
        file = folder / f"model.{precision}.onnx"
        start = time.perf_counter()
        model = (
            to_precision(self.model, precision)
            if self.folded is None
            else to_precision(self.folded, precision)
        )
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
        return Artifact(
            name=f"onnx-{precision}",
            file=built.file.name,
            sha256=sha256_of(built.file),
            size_bytes=built.file.stat().st_size,
            runtime="onnxruntime",
            runtime_version=import_onnxruntime().__version__,
            format_version=f"opset {OPSET}",
            precision_requested=precision,
            precision_found=found,
            folded=self.folded is not None,
            compute_types=dict(compute_types(built.graph)),
            batch=self.batch,
            devices=devices,
            device=device,
            build_seconds=round(built.seconds, 2),
            parity=_with_precision(parity, precision, found),
            rounded_parity=rounded,
        )

    def openvino(self, built: Built, precision: Precision) -> Artifact:
        """Convert a float32 graph to OpenVINO's format, and compare it in one precision.

        Args:
            built: the float32 ONNX graph; the IR is written beside it, once for all precisions.
            precision: what OpenVINO is to compute in.
        """
        start = time.perf_counter()
        xml = built.file.with_name("model.openvino.xml")
        weights = ensure_ir(built.file, xml)
        with OpenVinoRuntime(xml, max_batch=self.batch.maximum, precision=precision) as runtime:
            seconds = time.perf_counter() - start
            logits = run_artifact(runtime, self.pictures.images, self._sizes)
            types = runtime.compute_types()
        parity = self._verdict(
            logits, precision, built.graph, run=partial(run_openvino, precision=precision)
        )
        found = types.most_common(1)[0][0]
        return Artifact(
            name=f"openvino-{precision}",
            file=xml.name,
            sha256=sha256_of(xml),
            size_bytes=xml.stat().st_size,
            extra_files=(weights,),
            runtime="openvino",
            runtime_version=import_openvino().__version__,
            format_version="OpenVINO IR 11",
            precision_requested=precision,
            precision_found=found,
            folded=self.folded is not None,
            compute_types=dict(types),
            batch=self.batch,
            devices=("cpu",),
            device="cpu",
            build_seconds=round(seconds, 2),
            parity=_with_precision(parity, precision, found),
        )

    def _as_it_is(self, built: Built, device: Device) -> Parity:
        logits = self._run(built.file, device)
        return self._verdict(logits, built.precision, built.graph)

    def _rounded(self, built: Built) -> Parity:
        """Parity of what half-precision hardware computes, found on a CPU (see `widening`)."""
        wide = widen(built.graph, built.precision)
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "widened.onnx"
            onnx.save(wide, file)
            logits = self._run(file, "cpu")
        method = f"computed in float32, every result rounded to {built.precision}"
        return self._verdict(logits, built.precision, wide, method=method)

    def _verdict(
        self,
        logits: Logits,
        precision: Precision,
        graph: onnx.ModelProto,
        *,
        method: str = "run",
        run: GraphRunner | None = None,
    ) -> Parity:
        parity = compare(
            logits, self.reference, precision, source=self.pictures.source, method=method
        )
        if parity.passed:
            return parity
        layer = first_departure(
            graph,
            self.model,
            self.pictures.images[:_DEPARTURE_PICTURES],
            self.checkpoint.preprocess,
            tolerance=TOLERANCES[precision].relative,
            run=run,
        )
        return parity.model_copy(update={"first_departure": layer})

    def _run(self, file: Path, device: Device) -> Logits:
        with OnnxRuntime(file, max_batch=self.batch.maximum, device=device) as runtime:
            return run_artifact(runtime, self.pictures.images, self._sizes)

    @property
    def _sizes(self) -> tuple[int, ...]:
        """Batch sizes that parity cycles through."""
        return (1, self.batch.optimum, min(3, self.batch.maximum))


def _with_precision(parity: Parity, asked: Precision, found: str) -> Parity:
    """The comparison, failed if the artifact computes in another precision than was asked for."""
    if found == asked:
        return parity
    reason = f"asked for {asked}, the artifact computes in {found}"
    return parity.model_copy(update={"passed": False, "reason": reason})


def _devices(precision: Precision) -> tuple[Device, ...]:
    """Devices for which ONNX Runtime has kernels of a precision."""
    return ("cuda",) if precision == "bf16" else ("cpu", "cuda")
