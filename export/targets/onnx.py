"""ONNX: what every other target is built from, and what runs everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lavit_deploy.export.judging.context import BuildContext
from lavit_deploy.export.request import Request
from lavit_deploy.export.targets.target import Planned, Progress, Step, Target
from lavit_deploy.manifest import Artifact, Precision


@dataclass(frozen=True)
class OnnxTarget(Target):
    """ONNX graphs for ONNX Runtime.

    Attributes:
        precisions: which to build, float32 first.
    """

    precisions: tuple[Precision, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(
            label
            for precision in self.precisions
            for label in (f"build onnx-{precision}", f"parity of onnx-{precision}")
        )

    def build(self, context: BuildContext, folder: Path, progress: Progress) -> Iterator[Artifact]:
        for precision in self.precisions:
            progress(f"build onnx-{precision}")
            built = context.graph(precision, folder)
            progress(f"parity of onnx-{precision}")
            yield context.judge(built)


def plan_onnx(request: Request) -> Planned:
    """Float32 always, and the half precision that was asked for."""
    steps = [Step("onnx-fp32", "build", "runs everywhere; the yardstick of the others")]
    precisions: tuple[Precision, ...] = ("fp32",)
    if request.half is not None:
        precisions += (request.half,)
        why = _why(request.half, cuda=request.device == "cuda")
        steps.append(Step(f"onnx-{request.half}", "build", why))
    return Planned(tuple(steps), OnnxTarget(precisions))


def _why(half: Precision, *, cuda: bool) -> str:
    if cuda:
        return "half the size and traffic on a GPU"
    if half == "bf16":
        return (
            "for GPUs; the CPU has no kernels for it, so its parity is measured on a copy that "
            "computes in float32 and rounds to bf16, and its latency is not"
        )
    return "half the size; for GPUs: a CPU casts every operator back to float32"
