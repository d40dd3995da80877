"""What an export will do on this machine, said before it starts."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Literal

from lavit_deploy.errors import UsageError
from lavit_deploy.manifest import Device, Precision
from lavit_deploy.runtimes.onnxruntime import import_onnxruntime


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
        precisions: one ONNX artifact for each, in order; float32 first.
        device: where parity and latency are measured.
        steps: the plan in words.
    """

    precisions: tuple[Precision, ...]
    device: Device
    steps: tuple[Step, ...]


def make_plan(half: Precision | None, device: Device | Literal["auto"]) -> Plan:
    """Decide what to build, and where it is checked and timed.

    Args:
        half: "fp16" or "bf16" when asked for, None for float32 alone.
        device: "cpu", "cuda", or "auto" for CUDA where it can be used.

    Raises:
        UsageError: CUDA is asked for and cannot be used; says what is missing.
    """
    obstacle = _cuda_obstacle()
    if device == "cuda" and obstacle:
        raise UsageError(f"--device cuda: {obstacle}")
    cuda = device != "cpu" and not obstacle
    steps = [Step("onnx-fp32", "build", "runs everywhere; the yardstick of the others")]
    precisions: list[Precision] = ["fp32"]
    if half is not None:
        precisions.append(half)
        steps.append(Step(f"onnx-{half}", "build", _why(half, cuda=cuda)))
    where = "cuda" if cuda else "cpu"
    steps.append(Step(f"on {where}", "check", "parity with float32 PyTorch, then latency"))
    if not cuda:
        steps.append(Step("on cuda", "skip", obstacle or "--device cpu"))
    return Plan(tuple(precisions), "cuda" if cuda else "cpu", tuple(steps))


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
