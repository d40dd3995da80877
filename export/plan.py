"""What an export will do on this machine, said before it starts."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from lavit_deploy.errors import UsageError
from lavit_deploy.manifest import Device, Precision
from lavit_deploy.runtimes.onnxruntime import import_onnxruntime
from lavit_deploy.runtimes.openvino import cpu_precisions

Target = Literal["auto", "onnx", "openvino"]


@dataclass(frozen=True)
class Step:
    """One line of the plan.

    Attributes:
        what: the artifact or check.
        action: "build", "check" or "skip".
        why: what it is for, or why it is left out.
    """

    what: str
    action: Literal["build", "check", "skip"]
    why: str


@dataclass(frozen=True)
class Plan:
    """The artifacts to build, where they are checked, and the lines that say so.

    Attributes:
        onnx: precisions of the ONNX artifacts, float32 first.
        openvino: precisions of the OpenVINO artifacts, empty for none.
        device: where parity and latency are measured.
        steps: the plan in words.
    """

    onnx: tuple[Precision, ...]
    openvino: tuple[Precision, ...]
    device: Device
    steps: tuple[Step, ...]


def make_plan(target: Target, half: Precision | None, device: Device | Literal["auto"]) -> Plan:
    """Decide what to build, and where it is checked and timed.

    Args:
        target: "onnx", "openvino" (which ONNX is the source of), or "auto" for what can be built.
        half: "fp16" or "bf16" when asked for, None for float32 alone.
        device: "cpu", "cuda", or "auto" for CUDA where it can be used.

    Raises:
        UsageError: CUDA is asked for and cannot be used; says what is missing.
        MissingDependencyError: OpenVINO is asked for and not installed.
    """
    no_cuda = _cuda_obstacle()
    if device == "cuda" and no_cuda:
        raise UsageError(f"--device cuda: {no_cuda}")
    cuda = device != "cpu" and not no_cuda
    steps = [Step("onnx-fp32", "build", "runs everywhere; the yardstick of the others")]
    onnx: tuple[Precision, ...] = ("fp32",)
    if half is not None:
        onnx += (half,)
        steps.append(Step(f"onnx-{half}", "build", _why(half, cuda=cuda)))
    openvino, openvino_steps = _plan_openvino(target)
    steps += openvino_steps
    where: Device = "cuda" if cuda else "cpu"
    steps.append(Step(f"on {where}", "check", "parity with float32 PyTorch, then latency"))
    if not cuda:
        steps.append(Step("on cuda", "skip", no_cuda or "--device cpu"))
    return Plan(onnx, openvino, where, tuple(steps))


def _plan_openvino(target: Target) -> tuple[tuple[Precision, ...], list[Step]]:
    """Precisions to build for OpenVINO, and the lines about it."""
    if target == "onnx":
        return (), []
    if find_spec("openvino") is None and target == "auto":
        why = 'not installed: pip install "lavit-deploy[openvino]"'
        return (), [Step("openvino", "skip", why)]
    precisions = cpu_precisions()
    steps = [Step("openvino-fp32", "build", "a second CPU runtime, exact to float32")]
    if "bf16" in precisions:
        why = "this CPU multiplies bfloat16 natively"
        steps.append(Step("openvino-bf16", "build", why))
    else:
        steps.append(Step("openvino-bf16", "skip", "this CPU has no bfloat16 instructions"))
    return precisions, steps


def _cuda_obstacle() -> str:
    """Why CUDA cannot be used here; empty if it can."""
    if "CUDAExecutionProvider" not in import_onnxruntime().get_available_providers():
        return 'the installed onnxruntime has no CUDA support: pip install "lavit-deploy[gpu]"'
    if shutil.which("nvidia-smi") is None:
        return "no NVIDIA driver on this machine (nvidia-smi is not found)"
    return ""


def _why(half: Precision, *, cuda: bool) -> str:
    if cuda:
        return "half the size and traffic on a GPU"
    if half == "bf16":
        return (
            "for GPUs; the CPU has no kernels for it, so its parity is measured on a copy that "
            "computes in float32 and rounds to bf16, and its latency is not"
        )
    return "half the size; for GPUs: a CPU casts every operator back to float32"
