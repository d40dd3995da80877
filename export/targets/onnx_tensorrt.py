"""ONNX graphs in ONNX Runtime's TensorRT execution provider: no file of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lavit_deploy.common.errors import UsageError
from lavit_deploy.common.gpu import find_gpu
from lavit_deploy.export.judging.context import BuildContext
from lavit_deploy.export.judging.reference import run_artifact
from lavit_deploy.export.request import Request
from lavit_deploy.export.targets.target import Planned, Progress, Step, Target
from lavit_deploy.manifest import Artifact, Precision
from lavit_deploy.runtimes.onnxruntime import OnnxRuntime, TensorRTProvider, import_onnxruntime

_PROVIDER = "TensorrtExecutionProvider"


@dataclass(frozen=True)
class OnnxTensorRTTarget(Target):
    """The bundle's ONNX graphs, which the provider turns into engines when they are opened.

    Attributes:
        precisions: whose graphs.
    """

    precisions: tuple[Precision, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(f"onnx-tensorrt-{precision}" for precision in self.precisions)

    def build(self, context: BuildContext, folder: Path, progress: Progress) -> Iterator[Artifact]:
        for precision in self.precisions:
            name = f"onnx-tensorrt-{precision}"
            progress(name)
            built = context.graph(precision, folder)
            provider = TensorRTProvider(context.batch)
            with OnnxRuntime(
                built.file, max_batch=context.batch.maximum, device="cuda", tensorrt=provider
            ) as runtime:
                logits = run_artifact(runtime, context.pictures.images, context.sizes)
            yield context.judge(built).model_copy(
                update={
                    "name": name,
                    "runtime": "onnxruntime_tensorrt",
                    "devices": ("cuda",),
                    "device": "cuda",
                    "parity": context.verdict(logits, precision, built.graph),
                    "rounded_parity": None,
                }
            )


def plan_onnx_tensorrt(request: Request) -> Planned:
    """Where ONNX Runtime has the provider, and there is a GPU for it.

    Raises:
        UsageError: asked for by name and impossible here.
    """
    if not request.wants("onnx-tensorrt"):
        return Planned(())
    named = request.names("onnx-tensorrt")
    why = ""
    if find_gpu() is None:
        why = "no NVIDIA GPU here"
    elif _PROVIDER not in import_onnxruntime().get_available_providers():
        why = 'ONNX Runtime has no TensorRT provider: pip install "lavit-deploy[gpu]"'
    elif request.device != "cuda":
        why = "checks run on the CPU: --device cuda"
    if why and named:
        raise UsageError(f"--target onnx-tensorrt: {why}")
    if why:
        # Without a GPU the line of TensorRT says so.
        skipped = Step("onnx-tensorrt", "skip", why)
        return Planned(() if find_gpu() is None else (skipped,))
    precisions: tuple[Precision, ...] = (
        ("fp32",) if request.half is None else ("fp32", request.half)
    )
    steps = tuple(
        Step(f"onnx-tensorrt-{precision}", "build", "ONNX Runtime's TensorRT provider")
        for precision in precisions
    )
    extras = frozenset() if named else frozenset(step.what for step in steps)
    return Planned(steps, OnnxTensorRTTarget(precisions), extras)
