"""AOTInductor: PyTorch compiles the model ahead of time, for the device at hand.

The package needs torch to run and none of this project's model code. On CUDA, less-attention
layers are the operator of `lavit_deploy.kernels`, whose Triton kernel is compiled into it, and so
are the MLPs of narrow tokens where that is faster.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.export import ExportedProgram

from lavit_deploy.common.alternation import alternate, median_ms
from lavit_deploy.common.errors import ExportError, LavitError, UsageError
from lavit_deploy.export.graphs.lavit_only import need_lavit
from lavit_deploy.export.graphs.onnx_graph import WithNormalisation
from lavit_deploy.export.graphs.precision import to_precision
from lavit_deploy.export.graphs.torch_program import compute_types, exported, precision_found
from lavit_deploy.export.judging.context import BuildContext, with_precision
from lavit_deploy.export.judging.reference import run_artifact
from lavit_deploy.export.request import LessAttention, NarrowMlp, Request
from lavit_deploy.export.targets.target import Planned, Progress, Step, Target
from lavit_deploy.folding.fold import default_rewrites, fold
from lavit_deploy.folding.rewrite import Rewrite
from lavit_deploy.kernels.mlp import WIDTHS
from lavit_deploy.kernels.rewrite_less_attention import FuseLessAttention
from lavit_deploy.kernels.rewrite_mlp import FuseNarrowMlps
from lavit_deploy.manifest import Artifact, Device, Kernels, Parity, Precision
from lavit_deploy.model.lavit import LaViT
from lavit_deploy.runtimes.aoti import AotiRuntime, cuda_capability

_RUNS = 20
_SECONDS = 10.0

Form = Literal["native", "fused"]


@dataclass(frozen=True)
class PackageCandidate:
    """A compiled package that was compared with the float32 model.

    Attributes:
        mlp: which form its narrow MLPs have.
        file: the package.
        program: what it was compiled from.
        seconds: time that took.
        parity: the comparison.
    """

    mlp: Form
    file: Path
    program: ExportedProgram
    seconds: float
    parity: Parity


@dataclass(frozen=True)
class AotiTarget(Target):
    """One package for each precision.

    Attributes:
        precisions: which to build.
        device: what to compile for.
        mlp: form of the narrow MLPs.
        less_attention: form of the less-attention layers; an operator needs no library, so
            everything but "native" means the operator where there is a GPU.
    """

    precisions: tuple[Precision, ...]
    device: Device
    mlp: NarrowMlp = "auto"
    less_attention: LessAttention = "auto"

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(f"aoti-{precision}" for precision in self.precisions)

    def build(self, context: BuildContext, folder: Path, progress: Progress) -> Iterator[Artifact]:
        for precision in self.precisions:
            progress(f"aoti-{precision}")
            yield self._artifact(context, folder, precision, progress)

    def _artifact(
        self, context: BuildContext, folder: Path, precision: Precision, progress: Progress
    ) -> Artifact:
        name = f"aoti-{precision}"
        forms, why = self._forms(context)
        file = folder / f"model.{precision}.{self.device}.pt2"
        with tempfile.TemporaryDirectory() as scratch:

            def made(form: Form) -> PackageCandidate:
                progress(f"{name}: {form} MLPs")
                return self._candidate(context, Path(scratch), precision, form)

            if len(forms) == 1:
                chosen = made(forms[0])
            else:
                chosen, why = self._faster(made, context)
            shutil.move(chosen.file, file)
        found = precision_found(chosen.program)
        return context.artifact(
            file,
            name=name,
            runtime="aoti",
            version=torch.__version__,
            form="AOTInductor package (.pt2)",
            asked=precision,
            found=found,
            types=compute_types(chosen.program),
            devices=(self.device,),
            device=self.device,
            compute_capability=cuda_capability() if self.device == "cuda" else None,
            kernels=Kernels(
                less_attention="fused" if self._fuses_less_attention(context) else "native",
                mlp=chosen.mlp,
                mlp_why=why,
            ),
            seconds=chosen.seconds,
            parity=with_precision(chosen.parity, precision, found),
        )

    def _forms(self, context: BuildContext) -> tuple[tuple[Form, ...], str]:
        """Forms of the narrow MLPs to build, and why these.

        Raises:
            ExportError: the fused form is asked for and the model has no layer for it.
        """
        if self.mlp == "native":
            return ("native",), "asked for"
        if context.folded is None:
            obstacle = "the graph is not folded"
        elif not isinstance(context.model, LaViT):
            obstacle = "the model is no LaViT"
        elif not any(dim in WIDTHS for dim in context.model.config.dims):
            obstacle = f"no stage of {', '.join(map(str, WIDTHS))} channels"
        else:
            obstacle = ""
        if self.mlp == "fused":
            if obstacle:
                raise ExportError(f"--mlp fused: {obstacle}")
            return ("fused",), "asked for"
        if obstacle or self.device != "cuda":
            return ("native",), obstacle or "no GPU here to time the kernel on"
        return ("native", "fused"), ""

    def _candidate(
        self, context: BuildContext, scratch: Path, precision: Precision, form: Form
    ) -> PackageCandidate:
        file = scratch / f"{form}.pt2"
        start = time.perf_counter()
        program = exported(
            self._module(context, precision, form),
            context.checkpoint.config,
            context.batch,
            self.device,
        )
        compile_package(program, file, self.device)
        seconds = time.perf_counter() - start
        with self._open(file, context) as runtime:
            logits = run_artifact(runtime, context.pictures.images, context.sizes)
        return PackageCandidate(
            form, file, program, seconds, context.verdict(logits, precision, None)
        )

    def _module(self, context: BuildContext, precision: Precision, form: Form) -> nn.Module:
        """What to compile: uint8 pictures [B, H, W, C] -> float32 logits [B, K]."""
        if context.folded is None:
            literal = to_precision(context.model, precision)
            return WithNormalisation(literal, context.checkpoint.preprocess).eval().to(self.device)
        rewrites: list[Rewrite] = []
        if self._fuses_less_attention(context):
            rewrites.append(FuseLessAttention())
        if form == "fused":
            rewrites.append(FuseNarrowMlps())
        folded = context.folded
        if rewrites:
            every = (*default_rewrites(), *rewrites)
            lavit = need_lavit(context.model, "a kernel of this project")
            folded = fold(lavit, context.checkpoint.preprocess, rewrites=every).model
        return to_precision(folded, precision).eval().to(self.device)

    def _fuses_less_attention(self, context: BuildContext) -> bool:
        wanted = self.device == "cuda" and self.less_attention != "native"
        return wanted and context.folded is not None and isinstance(context.model, LaViT)

    def _faster(
        self, made: Callable[[Form], PackageCandidate], context: BuildContext
    ) -> tuple[PackageCandidate, str]:
        """The faster of the two forms on this GPU, and why it was taken.

        Nobody asked for the fused form, so one that fails loses and does not end the export.
        """
        native = made("native")
        try:
            fused = made("fused")
        except LavitError as error:
            return native, f"the fused form failed: {error}"
        if native.parity.passed != fused.parity.passed:
            good, bad = (native, fused) if native.parity.passed else (fused, native)
            return good, f"the {bad.mlp} form failed parity: {bad.parity.reason}"
        milliseconds = self._time((native, fused), context)
        best = min((native, fused), key=lambda item: milliseconds[item.mlp])
        times = ", ".join(f"{form} {value:.2f} ms" for form, value in milliseconds.items())
        return best, f"faster at batch {context.batch.optimum}: {times}"

    def _time(
        self, candidates: tuple[PackageCandidate, ...], context: BuildContext
    ) -> dict[str, float]:
        images = context.pictures.images
        batch = images[[index % len(images) for index in range(context.batch.optimum)]]
        runtimes = {item.mlp: self._open(item.file, context) for item in candidates}
        calls: dict[str, Callable[[], object]] = {
            form: partial(runtime.infer, batch) for form, runtime in runtimes.items()
        }
        seconds = alternate(calls, runs=_RUNS, budget_seconds=_SECONDS)
        for runtime in runtimes.values():
            runtime.close()
        return {form: median_ms(values) for form, values in seconds.items()}

    def _open(self, file: Path, context: BuildContext) -> AotiRuntime:
        return AotiRuntime(
            file,
            max_batch=context.batch.maximum,
            picture=context.checkpoint.preprocess.shape,
            device=self.device,
        )


def plan_aoti(request: Request) -> Planned:
    """Float32 and the half precision that was asked for; by its name, or on CUDA.

    Raises:
        UsageError: asked for by name, and there is no C++ compiler; or an option is for packages
            that are not built.
    """
    planned = _planned(request)
    if request.mlp == "fused" and planned.target is None:
        raise UsageError("--mlp fused is for AOTInductor's packages: add --target aoti")
    return planned


def _planned(request: Request) -> Planned:
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
    target = AotiTarget(precisions, request.device, request.mlp, request.engine.less_attention)
    return Planned(tuple(steps), target, extras)


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
