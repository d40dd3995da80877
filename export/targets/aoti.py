"""AOTInductor: PyTorch compiles the model ahead of time, for the device at hand.

The package needs torch to run and none of this project's model code. On CUDA, less-attention
layers are the operator of `lavit_deploy.kernels`, whose Triton kernel is compiled into it.
"""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from export.onnx_graph import DeployableLaViT
from export.parity import run_artifact
from export.precision import to_precision
from export.request import Request
from export.targets.base import Planned, Progress, Step, Target
from export.workbench import Workbench, with_precision
from lavit_deploy.errors import ExportError, UsageError
from lavit_deploy.files import sha256_of
from lavit_deploy.folding.fold import default_rewrites, fold
from lavit_deploy.manifest import Artifact, Device, Precision
from lavit_deploy.runtimes.aoti import AotiRuntime

_COMPUTE = ("linear", "matmul", "mm", "addmm", "bmm", "conv2d", "convolution")
"""Operators of an exported program whose type decides what it computes in."""

_TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


@dataclass(frozen=True)
class AotiTarget(Target):
    """One package for each precision.

    Attributes:
        precisions: which to build.
        device: what to compile for.
    """

    precisions: tuple[Precision, ...]
    device: Device

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(f"aoti-{precision}" for precision in self.precisions)

    def build(self, bench: Workbench, folder: Path, progress: Progress) -> Iterator[Artifact]:
        for precision in self.precisions:
            progress(f"aoti-{precision}")
            yield self._artifact(bench, folder, precision)

    def _artifact(self, bench: Workbench, folder: Path, precision: Precision) -> Artifact:
        file = folder / f"model.{precision}.{self.device}.pt2"
        start = time.perf_counter()
        program = exported(deployable(bench, precision, self.device), bench, self.device)
        compile_package(program, file, self.device)
        seconds = time.perf_counter() - start
        with AotiRuntime(
            file,
            max_batch=bench.batch.maximum,
            image_size=bench.checkpoint.config.image_size,
            device=self.device,
        ) as runtime:
            logits = run_artifact(runtime, bench.pictures.images, bench.sizes)
        types, found = compute_types(program), precision_found(program)
        return Artifact(
            name=f"aoti-{precision}",
            file=file.name,
            sha256=sha256_of(file),
            size_bytes=file.stat().st_size,
            runtime="aoti",
            runtime_version=torch.__version__,
            format_version="AOTInductor package (.pt2)",
            precision_requested=precision,
            precision_found=found,
            folded=bench.folded is not None,
            compute_types=dict(types),
            batch=bench.batch,
            devices=(self.device,),
            device=self.device,
            build_seconds=round(seconds, 2),
            parity=with_precision(bench.verdict(logits, precision, None), precision, found),
        )


def plan_aoti(request: Request) -> Planned:
    """Float32 and the half precision that was asked for; by its name, or on CUDA.

    Raises:
        UsageError: asked for by name, and there is no C++ compiler.
    """
    cuda = request.device == "cuda"
    if not request.names("aoti"):
        if not request.wants("aoti"):
            return Planned(())
        if not cuda:
            why = "for GPUs; --target aoti builds it for this CPU too"
            return Planned((Step("aoti", "skip", why),))
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        if request.names("aoti"):
            raise UsageError("--target aoti needs a C++ compiler: install g++, or name one in CXX")
        return Planned((Step("aoti", "skip", "no C++ compiler: install g++"),))
    precisions: tuple[Precision, ...] = ("fp32",)
    steps = [Step("aoti-fp32", "build", f"compiled by PyTorch for {request.device}; a minute")]
    if request.half == "fp16" and not cuda:
        steps.append(Step("aoti-fp16", "skip", "PyTorch's float16 products on a CPU are slow"))
    elif request.half is not None:
        precisions += (request.half,)
        steps.append(Step(f"aoti-{request.half}", "build", "the same in half precision"))
    names = frozenset(f"aoti-{precision}" for precision in precisions)
    extras = frozenset() if request.names("aoti") else names
    return Planned(tuple(steps), AotiTarget(precisions, request.device), extras)


def deployable(bench: Workbench, precision: Precision, device: Device) -> nn.Module:
    """What to compile: uint8 pictures [B, H, W, 3] -> float32 logits [B, K]."""
    if bench.folded is None:
        literal = to_precision(bench.model, precision)
        return DeployableLaViT(literal, bench.checkpoint.preprocess).eval().to(device)
    folded = bench.folded
    if device == "cuda":
        from lavit_deploy.kernels.fused_less_attention import FuseLessAttention

        rewrites = (*default_rewrites(), FuseLessAttention())
        folded = fold(bench.model, bench.checkpoint.preprocess, rewrites=rewrites).model
    return to_precision(folded, precision).eval().to(device)


def exported(module: nn.Module, bench: Workbench, device: Device) -> ExportedProgram:
    """The model's graph with a dynamic batch.

    Raises:
        ExportError: PyTorch could not trace it.
    """
    height, width = bench.checkpoint.config.image_size
    channels = bench.checkpoint.config.in_channels
    # Two images, because torch.export treats a size of one as a constant.
    example = torch.zeros(2, height, width, channels, dtype=torch.uint8, device=device)
    dimension = torch.export.Dim("batch", min=1, max=max(bench.batch.maximum, 2))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(module, (example,), dynamic_shapes=({0: dimension},))
    except Exception as error:
        raise ExportError(f"PyTorch could not export the model: {error}") from error


def compile_package(program: ExportedProgram, file: Path, device: Device) -> None:
    """Compile an exported program into a package.

    On a CPU weights are frozen, so that products take them packed; on CUDA the fastest kernel of
    each product is searched for.

    Raises:
        ExportError: it could not be compiled.
    """
    configs = {"max_autotune": True} if device == "cuda" else {"freezing": True}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch._inductor.aoti_compile_and_package(  # noqa: SLF001 - its documented name
                program, package_path=str(file), inductor_configs=configs
            )
    except Exception as error:
        raise ExportError(f"AOTInductor could not compile the model: {error}") from error


def compute_types(program: ExportedProgram) -> Counter[str]:
    """Number of matrix products and convolutions of a program by element type."""
    return Counter(_type_of(node.args[0]) for node in _products(program))


def precision_found(program: ExportedProgram) -> str:
    """The precision that a program computes in: the type of most weights of its products.

    As for ONNX graphs (`export.precision.precision_found`), weights are counted and not operators.
    """
    weights: Counter[str] = Counter()
    for node in _products(program):
        for factor in node.args[:2]:
            if isinstance(factor, torch.fx.Node) and factor.op == "placeholder":
                weights[_type_of(factor)] += factor.meta["val"].numel()
    return weights.most_common(1)[0][0] if weights else "none"


def _products(program: ExportedProgram) -> Iterator[torch.fx.Node]:
    for node in program.graph.nodes:
        if node.op == "call_function" and node.target.__name__.split(".")[0] in _COMPUTE:
            yield node


def _type_of(factor: object) -> str:
    dtype = factor.meta["val"].dtype  # type: ignore[attr-defined] # a node of the graph
    return _TYPES.get(dtype, str(dtype))
