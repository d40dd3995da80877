"""A quantized artifact against float32 PyTorch on held-out pictures."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TypedDict

import onnx

from lavit_deploy.export.judging.context import BuildContext, with_precision
from lavit_deploy.export.judging.divergence import GraphRunner, first_divergent_layer
from lavit_deploy.export.judging.parity_pictures import ParityPictures
from lavit_deploy.export.judging.reference import reference_logits
from lavit_deploy.export.quantization.accuracy_loss import Loss, loss
from lavit_deploy.export.quantization.calibration import LabelledPictures
from lavit_deploy.export.quantization.options import Quantize
from lavit_deploy.manifest import Parity, Precision, Quantization
from lavit_deploy.runtimes.base import Logits

_LAYER_PICTURES = 4
_CHEAP = {"QuantizeLinear", "DequantizeLinear", "Reshape", "Transpose", "Unsqueeze", "Split"}


class QuantizationFacts(TypedDict):
    """The fields of `Quantization` that every artifact has."""

    calibration: str
    calibration_images: int
    held_out: str
    float_accuracy: float | None
    accuracy: float | None
    drop: float
    max_drop: float
    worst_layer: str | None
    float_operators: dict[str, int]


@dataclass(frozen=True)
class Judge:
    """Compares with float32 on held-out pictures.

    Attributes:
        context: the model, with the held-out pictures and their float32 logits in it.
        held_out: these pictures with their labels.
        calibration: what ranges were taken from.
        max_drop: allowed loss, points.
    """

    context: BuildContext
    held_out: LabelledPictures
    calibration: LabelledPictures
    max_drop: float

    @classmethod
    def of(cls, context: BuildContext, quantize: Quantize) -> Judge:
        """The judge of one export."""
        held_out = quantize.split.held_out
        pictures = ParityPictures(held_out.images, held_out.source, held_out.skipped)
        reference = quantize.reference(
            lambda: reference_logits(context.model, held_out.images, context.checkpoint.preprocess)
        )
        own = replace(context, pictures=pictures, reference=reference, device="cpu")
        return cls(own, held_out, quantize.split.calibration, quantize.max_drop)

    def loss(self, logits: Logits) -> Loss:
        """What these logits of the held-out pictures lose."""
        return loss(logits, self.context.reference, self.held_out.labels)

    def record(
        self, logits: Logits, graph: onnx.ModelProto | None, *, run: GraphRunner | None = None
    ) -> QuantizationFacts:
        """What the manifest says of a quantized artifact.

        Args:
            logits: its logits of the held-out pictures.
            graph: its ONNX graph, to find the worst layer in; None where it has none.
            run: runs the graph as the artifact does; default: ONNX Runtime.
        """
        lost = self.loss(logits)
        return QuantizationFacts(
            calibration=self.calibration.source,
            calibration_images=len(self.calibration),
            held_out=self.held_out.source,
            float_accuracy=lost.float_accuracy,
            accuracy=lost.accuracy,
            drop=round(lost.points, 4),
            max_drop=self.max_drop,
            worst_layer=None if graph is None else self._worst_layer(graph, run),
            float_operators={} if graph is None else float_operators(graph),
        )

    def parity(
        self,
        logits: Logits,
        precision: Precision,
        graph: onnx.ModelProto | None,
        *,
        found: str,
        about: Quantization,
    ) -> Parity:
        """The comparison; failed also if more is lost than allowed, or nothing runs in int8."""
        if graph is None:
            source = self.held_out.source
            parity = self.context.task.compare(
                logits, self.context.reference, precision, source=source
            )
        else:
            parity = self.context.verdict(logits, precision, graph)
        # Near ties count as agreement in `compare`; a choice of int8 must not rest on them.
        agreement = min(parity.top1_agreement, self.loss(logits).agreement)
        parity = with_precision(
            parity.model_copy(update={"top1_agreement": agreement}), precision, found
        )
        if about.drop <= self.max_drop:
            return parity
        reasons = [parity.reason, f"loses {about.drop:.2f} points, allowed {self.max_drop:.2f}"]
        reason = "; ".join(item for item in reasons if item)
        return parity.model_copy(update={"passed": False, "reason": reason})

    def _worst_layer(self, graph: onnx.ModelProto, run: GraphRunner | None) -> str:
        return first_divergent_layer(
            onnx.shape_inference.infer_shapes(graph),
            self.context.model,
            self.held_out.images[:_LAYER_PICTURES],
            self.context.checkpoint.preprocess,
            tolerance=math.inf,
            run=run,
        ).removeprefix("no layer alone; largest at ")


def float_operators(graph: onnx.ModelProto) -> dict[str, int]:
    """Operators of a Q/DQ graph that compute in float, and how many there are of each."""
    activations = {
        node.output[0] for node in graph.graph.node if node.op_type == "DequantizeLinear"
    }
    found = Counter(
        node.op_type
        for node in graph.graph.node
        if node.op_type not in _CHEAP and node.input and node.input[0] not in activations
    )
    return dict(found)
