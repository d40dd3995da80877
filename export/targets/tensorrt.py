"""Engines of TensorRT, built for the GPU at hand, and of TensorRT-RTX, built anywhere."""

from __future__ import annotations

import ctypes
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx

from lavit_deploy.bundle.first_run import write_pictures
from lavit_deploy.common.alternation import alternate, median_ms
from lavit_deploy.common.atomic_files import atomic_path
from lavit_deploy.common.errors import ExportError, LavitError, MissingDependencyError, UsageError
from lavit_deploy.common.gpu import Gpu, covers, find_gpu
from lavit_deploy.export.graphs.onnx_graph import OPSET, write_onnx
from lavit_deploy.export.graphs.plugin_graph import fold_for_plugin
from lavit_deploy.export.graphs.precision import to_precision
from lavit_deploy.export.judging.context import BuildContext, extra_file, with_precision
from lavit_deploy.export.judging.reference import run_artifact
from lavit_deploy.export.request import EngineOptions, Request
from lavit_deploy.export.targets.target import Planned, Progress, Step, Target
from lavit_deploy.export.tensorrt.builder import (
    EnginePlan,
    build_engine,
    check_compute_capabilities,
)
from lavit_deploy.export.tensorrt.parity_without_gpu import graph_parity
from lavit_deploy.manifest import Artifact, Engine, ExtraFile, Parity, Precision
from lavit_deploy.runtimes.tensorrt import TensorRTRuntime
from lavit_deploy.runtimes.tensorrt_library import Flavour, Library, import_library, installed

_ANY = "8.0+"
"""What TensorRT-RTX compiles for when nothing is asked, and TensorRT with compatible hardware."""
_RUNS = 20
_SECONDS = 10.0


@dataclass(frozen=True)
class EngineCandidate:
    """A graph, the engine built from it, and which form its less-attention layers have."""

    form: str
    graph: onnx.ModelProto
    plan: EnginePlan


@dataclass(frozen=True)
class TensorRTTarget(Target):
    """Engines of one library.

    Attributes:
        library: TensorRT or TensorRT-RTX.
        precisions: which to build.
        options: how to build.
        gpu: the GPU that engines are run on; None where there is none that they run on.
    """

    library: Library
    precisions: tuple[Precision, ...]
    options: EngineOptions
    gpu: Gpu | None

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(
            label
            for precision in self.precisions
            for label in (f"build {self._name(precision)}", f"parity of {self._name(precision)}")
        )

    def _name(self, precision: Precision) -> str:
        return f"{target_name(self.library.flavour)}-{precision}"

    def build(self, context: BuildContext, folder: Path, progress: Progress) -> Iterator[Artifact]:
        for precision in self.precisions:
            yield self._artifact(context, folder, precision, progress)

    def _artifact(
        self, context: BuildContext, folder: Path, precision: Precision, progress: Progress
    ) -> Artifact:
        name = self._name(precision)
        progress(f"build {name}")
        file = folder / f"model.{name}.engine"
        candidates, failure = self._candidates(
            context, folder, precision, lambda step: progress(f"build {name}: {step}")
        )
        chosen, why = self._choose(candidates, context)
        why = failure or why
        with atomic_path(file) as temporary:
            temporary.write_bytes(chosen.plan.content)
        progress(f"parity of {name}")
        plugin = self._bundled_plugin(folder) if chosen.form == "plugin" else None
        extras = [write_pictures(folder, context.pictures.images, context.reference)]
        if plugin is not None:
            extras.append(plugin)
        if self.options.strip:
            extras.append(_weights_file(folder, name, chosen, context, precision))
        parity = self._parity(context, chosen, file, precision)
        found = chosen.plan.found
        capabilities = self._capabilities()
        return context.artifact(
            file,
            name=name,
            extra_files=tuple(extras),
            runtime=self.library.flavour,
            version=self.library.version,
            form=f"{self.library.title} plan of an opset {OPSET} graph",
            asked=precision,
            found=found.precision,
            folded=context.folded is not None or chosen.form == "plugin",
            types=found.products,
            devices=("cuda",),
            device="cpu" if self.gpu is None else "cuda",
            compute_capability=", ".join(capabilities),
            plugin=plugin.file if plugin else None,
            plugin_sha256=plugin.sha256 if plugin else None,
            engine=Engine(
                compute_capabilities=capabilities,
                precision_source=found.source,
                less_attention="plugin" if chosen.form == "plugin" else "native",
                less_attention_why=why,
                version_compatible=self.options.version_compatible,
                refittable=self.options.refit,
                stripped=self.options.strip,
                optimization_level=self.options.optimization_level,
            ),
            seconds=chosen.plan.seconds,
            parity=with_precision(parity, precision, found.precision),
        )

    def _forms(self) -> tuple[str, ...]:
        """Forms of the less-attention layers to build: one, or both to choose from."""
        asked = self.options.less_attention
        if asked != "auto":
            return (asked,)
        both = self.options.plugin is not None and self.gpu is not None
        return ("native", "plugin") if both else ("native",)

    def _candidates(
        self, context: BuildContext, folder: Path, precision: Precision, progress: Progress
    ) -> tuple[list[EngineCandidate], str]:
        """Every form that could be built, and why one could not that nobody asked for."""
        made, failure = [], ""
        for form in self._forms():
            try:
                made.append(self._candidate(context, folder, precision, form, progress))
            except LavitError as error:
                if not made:  # asked for, or the native form
                    raise
                failure = f"the {form} form failed: {error}"
        return made, failure

    def _candidate(
        self,
        context: BuildContext,
        folder: Path,
        precision: Precision,
        form: str,
        progress: Progress,
    ) -> EngineCandidate:
        graph = _graph(context, folder, precision, form)
        plugins = (self.options.plugin,) if form == "plugin" and self.options.plugin else ()
        if plugins:
            _check_loader(self.library)
        plan = build_engine(
            self.library,
            graph,
            self.options,
            batch=context.batch,
            gpu=self.gpu is not None,
            plugins=plugins,
            progress=progress,
        )
        return EngineCandidate(form, graph, plan)

    def _choose(
        self, candidates: list[EngineCandidate], context: BuildContext
    ) -> tuple[EngineCandidate, str]:
        """The faster candidate on this GPU, and why it was taken."""
        if len(candidates) == 1:
            return candidates[0], self._reason_for_one()
        milliseconds = self._time(candidates, context)
        best = min(candidates, key=lambda item: milliseconds[item.form])
        times = ", ".join(f"{form} {value:.2f} ms" for form, value in milliseconds.items())
        return best, f"faster at batch {context.batch.optimum}: {times}"

    def _reason_for_one(self) -> str:
        if self.options.less_attention != "auto":
            return "asked for"
        if self.options.plugin is None:
            return "no plugin library was given"
        return "no GPU here to time the plugin on"

    def _time(self, candidates: list[EngineCandidate], context: BuildContext) -> dict[str, float]:
        images = context.pictures.images
        batch = images[[index % len(images) for index in range(context.batch.optimum)]]
        with tempfile.TemporaryDirectory() as scratch:
            runtimes: dict[str, TensorRTRuntime] = {}
            try:
                for item in candidates:
                    file = Path(scratch) / f"{item.form}.engine"
                    file.write_bytes(item.plan.content)
                    runtimes[item.form] = self._open(file, item, context)
                calls: dict[str, Callable[[], object]] = {
                    form: partial(runtime.infer, batch) for form, runtime in runtimes.items()
                }
                seconds = alternate(calls, runs=_RUNS, budget_seconds=_SECONDS)
            finally:
                for runtime in runtimes.values():
                    runtime.close()
        return {form: median_ms(values) for form, values in seconds.items()}

    def _open(
        self,
        file: Path,
        candidate: EngineCandidate,
        context: BuildContext,
        weights: Path | None = None,
    ) -> TensorRTRuntime:
        return TensorRTRuntime(
            file,
            flavour=self.library.flavour,
            max_batch=context.batch.maximum,
            plugin=self.options.plugin if candidate.form == "plugin" else None,
            weights=weights,
            host_code=self.options.version_compatible,
            library=self.library,
        )

    def _parity(
        self, context: BuildContext, chosen: EngineCandidate, file: Path, precision: Precision
    ) -> Parity:
        """Parity of the engine where it can be run, of its graph where it cannot."""
        if self.gpu is None:
            return graph_parity(context, chosen.graph, precision)
        with tempfile.TemporaryDirectory() as scratch:
            weights = None
            if self.options.strip:
                weights = Path(scratch) / "weights.onnx"
                onnx.save(chosen.graph, weights)
            with self._open(file, chosen, context, weights) as runtime:
                logits = run_artifact(runtime, context.pictures.images, context.sizes)
        return context.verdict(logits, precision, chosen.graph)

    def _capabilities(self) -> tuple[str, ...]:
        if self.options.compute_capabilities:
            return self.options.compute_capabilities
        if self.library.is_rtx or self.options.hardware_compatible or self.gpu is None:
            return (_ANY,)
        return (self.gpu.capability,)

    def _bundled_plugin(self, folder: Path) -> ExtraFile:
        if self.options.plugin is None:
            raise ExportError("the graph has plugin nodes and no plugin library was given")
        copied = folder / self.options.plugin.name
        if not copied.exists():
            shutil.copyfile(self.options.plugin, copied)
        return extra_file(copied)


def target_name(flavour: Flavour) -> str:
    """The library's name on the command line and in names of artifacts."""
    return flavour.replace("_", "-")


def plan_tensorrt(request: Request) -> Planned:
    """TensorRT's engines where a GPU and the library are; a line that says why where not.

    Raises:
        MissingDependencyError: asked for by name and not installed.
        UsageError: asked for by name and impossible here, or an option is.
    """
    if not request.wants("tensorrt"):
        return Planned(())
    gpu = find_gpu()
    named = request.names("tensorrt")
    if gpu is None:
        why = "no NVIDIA GPU here, for which it would build"
        if named:
            raise UsageError(f"--target tensorrt: {why}; tensorrt-rtx builds without one")
        return Planned((Step("tensorrt", "skip", f"{why}; --target tensorrt-rtx needs none"),))
    if not named and (why := _not_there("tensorrt")):
        return Planned((Step("tensorrt", "skip", why),))
    library = import_library("tensorrt")
    check_compute_capabilities(library, request.engine.compute_capabilities if named else ())
    return _planned(request, library, gpu, named=named)


def plan_tensorrt_rtx(request: Request) -> Planned:
    """TensorRT-RTX's engines: anywhere when asked for, by itself where they can run.

    Raises:
        MissingDependencyError: asked for by name and not installed.
        UsageError: an option is impossible with it, or here.
    """
    if not request.wants("tensorrt-rtx"):
        return Planned(())
    gpu = find_gpu()
    if not request.names("tensorrt-rtx"):
        if gpu is None:
            return Planned(())  # the line of TensorRT says so
        if why := _not_there("tensorrt_rtx") or _rtx_cannot_use(gpu):
            return Planned((Step("tensorrt-rtx", "skip", why),))
    library = import_library("tensorrt_rtx")
    options = request.engine
    check_compute_capabilities(library, options.compute_capabilities)
    _check_rtx_options(options, gpu)
    capabilities = options.compute_capabilities or (_ANY,)
    runs_here = gpu is not None and covers(capabilities, gpu) and not _rtx_cannot_use(gpu)
    named = request.names("tensorrt-rtx")
    return _planned(request, library, gpu if runs_here else None, named=named)


def _planned(request: Request, library: Library, gpu: Gpu | None, *, named: bool) -> Planned:
    options = request.engine
    _check_plugin(options)
    precisions: tuple[Precision, ...] = ("tf32",) if options.tf32 else ("fp32",)
    if request.half is not None:
        precisions += (request.half,)
    target = TensorRTTarget(library, precisions, options, gpu)
    where = f"run on {gpu.name}" if gpu else "not run: no GPU here; compared as a graph"
    name = target_name(library.flavour)
    steps = tuple(
        Step(f"{name}-{precision}", "build", f"{library.title} {library.version}, {where}")
        for precision in precisions
    )
    extras = frozenset() if named else frozenset(step.what for step in steps)
    return Planned(steps, target, extras)


def _not_there(flavour: Flavour) -> str:
    """Why a library cannot be used; empty if it can."""
    if not installed(flavour):
        return f'not installed: pip install "lavit-deploy[{target_name(flavour)}]"'
    try:
        import_library(flavour)
    except MissingDependencyError as error:
        return str(error)
    return ""


def _rtx_cannot_use(gpu: Gpu) -> str:
    """TensorRT-RTX is for RTX cards: H100 and their like are refused."""
    if gpu.compute_capability[0] in {9, 10}:
        return f"TensorRT-RTX does not support {gpu.name} (compute capability {gpu.capability})"
    return ""


def _check_rtx_options(options: EngineOptions, gpu: Gpu | None) -> None:
    """Refuse what TensorRT-RTX does not have, and what it has only with a GPU.

    Raises:
        UsageError: names the option.
    """
    never = {
        "--hardware-compatible": options.hardware_compatible,
        "--version-compatible": options.version_compatible,
    }
    for name, asked in never.items():
        if asked:
            raise UsageError(
                f"{name} is for TensorRT; TensorRT-RTX builds for --compute-capability, "
                "and loads engines of its own version"
            )
    for name, asked in {"--refit": options.refit, "--strip": options.strip}.items():
        if asked and gpu is None:
            raise UsageError(f"{name}: TensorRT-RTX builds such engines only where a GPU is")


def _check_plugin(options: EngineOptions) -> None:
    """Whether the plugin that is asked for is there.

    Raises:
        UsageError: it is not.
    """
    if options.plugin is not None and not options.plugin.is_file():
        raise UsageError(f"--plugin {options.plugin}: no such file; make plugin builds it")
    if options.less_attention == "plugin" and options.plugin is None:
        raise UsageError("--la plugin needs --plugin LIBRARY; make plugin builds it")


def _check_loader(library: Library) -> None:
    """TensorRT-RTX looks for itself under a name that its wheel does not have.

    It ends the process when a plugin is built and the name is not found; this says why before.

    Raises:
        ExportError: the name cannot be found.
    """
    if not library.is_rtx:
        return
    try:
        ctypes.CDLL("libtensorrt_rtx.so")
    except OSError:
        raise ExportError(
            "TensorRT-RTX builds engines with a plugin only if libtensorrt_rtx.so is on "
            "LD_LIBRARY_PATH: make a link of that name to its libtensorrt_rtx.so.1 "
            "(docs/tensorrt.md)"
        ) from None


def _graph(context: BuildContext, folder: Path, precision: Precision, form: str) -> onnx.ModelProto:
    """The ONNX graph of a form, without leaving the plugin's in the bundle."""
    source: Precision = "fp32" if precision == "tf32" else precision
    if form == "native":
        return context.graph(source, folder).graph
    folding = fold_for_plugin(context.checkpoint, context.model)
    with tempfile.TemporaryDirectory() as scratch:
        return write_onnx(
            context.checkpoint,
            to_precision(folding.model, source),
            Path(scratch) / "plugin.onnx",
            batch=context.batch,
            precision=source,
        )


def _weights_file(
    folder: Path, name: str, chosen: EngineCandidate, context: BuildContext, precision: Precision
) -> ExtraFile:
    """The ONNX file that a stripped engine takes its weights from."""
    if chosen.form == "native":
        source: Precision = "fp32" if precision == "tf32" else precision
        return extra_file(context.graph(source, folder).file)
    file = folder / f"model.{name}.weights.onnx"
    with atomic_path(file) as temporary:
        onnx.save(chosen.graph, temporary)
    return extra_file(file)
