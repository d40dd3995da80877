"""What an export will do on this machine, said before it starts."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import Literal

from lavit_deploy.common.errors import UsageError
from lavit_deploy.export.mobile.catalogue import FORMATS
from lavit_deploy.export.mobile.target import plan_format
from lavit_deploy.export.request import Request
from lavit_deploy.export.targets.aoti import plan_aoti
from lavit_deploy.export.targets.onnx import plan_onnx
from lavit_deploy.export.targets.onnx_int8 import plan_onnx_int8
from lavit_deploy.export.targets.onnx_tensorrt import plan_onnx_tensorrt
from lavit_deploy.export.targets.openvino import plan_openvino
from lavit_deploy.export.targets.openvino_int8 import plan_openvino_int8
from lavit_deploy.export.targets.target import Step, Target
from lavit_deploy.export.targets.tensorrt import plan_tensorrt, plan_tensorrt_rtx
from lavit_deploy.manifest import Device
from lavit_deploy.runtimes.onnxruntime import import_onnxruntime


@dataclass(frozen=True)
class BuildPlan:
    """The artifacts to build, where they are checked, and the lines that say so.

    Attributes:
        targets: what to build, ONNX first: the others are built from it.
        device: where parity and latency are measured.
        steps: the plan in words.
        extras: artifacts whose failure does not fail the export (`Planned.extras`).
        triton_repository: write a model repository of Triton from what was built.
    """

    targets: tuple[Target, ...]
    device: Device
    steps: tuple[Step, ...]
    extras: frozenset[str]
    triton_repository: bool = False


def make_plan(request: Request, device: Device | Literal["auto"]) -> BuildPlan:
    """Decide what to build, and where it is checked and timed.

    Args:
        request: what is asked for; its `device` is filled in here.
        device: "cpu", "cuda", or "auto" for CUDA where it can be used.

    Raises:
        UsageError: CUDA is asked for and cannot be used; says what is missing.
        MissingDependencyError: a target is asked for by name and its package is not installed.
    """
    no_cuda = _cuda_obstacle()
    if device == "cuda" and no_cuda:
        raise UsageError(f"--device cuda: {no_cuda}")
    where: Device = "cuda" if device != "cpu" and not no_cuda else "cpu"
    request = replace(request, device=where)
    planned = (
        plan_onnx(request),
        plan_openvino(request),
        plan_onnx_int8(request),
        plan_openvino_int8(request),
        plan_onnx_tensorrt(request),
        plan_tensorrt(request),
        plan_tensorrt_rtx(request),
        plan_aoti(request),
        *(plan_format(form, request) for form in FORMATS),
    )
    steps = [step for item in planned for step in item.steps]
    triton = request.names("triton-repo")
    if triton:
        steps.append(Step("triton-repo", "build", "a model repository of what Triton can serve"))
    steps.append(Step(f"on {where}", "check", "parity with float32 PyTorch, then latency"))
    if where == "cpu":
        steps.append(Step("on cuda", "skip", no_cuda or "--device cpu"))
    return BuildPlan(
        targets=tuple(item.target for item in planned if item.target is not None),
        device=where,
        steps=tuple(steps),
        extras=frozenset().union(*(item.extras for item in planned)),
        triton_repository=triton,
    )


def _cuda_obstacle() -> str:
    """Why CUDA cannot be used here; empty if it can."""
    if "CUDAExecutionProvider" not in import_onnxruntime().get_available_providers():
        return 'the installed onnxruntime has no CUDA support: pip install "lavit-deploy[gpu]"'
    if shutil.which("nvidia-smi") is None:
        return "no NVIDIA driver on this machine (nvidia-smi is not found)"
    return ""
