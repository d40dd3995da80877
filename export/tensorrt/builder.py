"""One builder for TensorRT 10, TensorRT 11 and TensorRT-RTX.

Networks are strongly typed: precision is what the ONNX graph says (casts, Q/DQ), never a flag.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from lavit_deploy.common.errors import ExportError, UsageError
from lavit_deploy.export.request import EngineOptions
from lavit_deploy.export.tensorrt import timing_cache
from lavit_deploy.export.tensorrt.build_monitor import BuildPhases, Progress, make_monitor
from lavit_deploy.export.tensorrt.engine_precision import (
    Found,
    confirm,
    read_inspector,
    read_network,
)
from lavit_deploy.export.tensorrt.onnx_parser import parse
from lavit_deploy.export.tensorrt.uint8_input import cast_first
from lavit_deploy.manifest import BatchRange
from lavit_deploy.runtimes.tensorrt_library import (
    Library,
    Messages,
    load_plugin,
    make_logger,
    make_runtime,
)


@dataclass(frozen=True)
class EnginePlan:
    """A built engine.

    Attributes:
        content: its bytes.
        found: the precision it computes in.
        seconds: time the build took.
        tf32: whether its float32 products may round their factors to TF32, read back from the
            configuration it was built with.
        warnings: what the library warned of.
    """

    content: bytes
    found: Found
    seconds: float
    tf32: bool
    warnings: tuple[str, ...]


def build_engine(
    library: Library,
    graph: onnx.ModelProto,
    options: EngineOptions,
    *,
    batch: BatchRange,
    gpu: bool,
    plugins: tuple[Path, ...] = (),
    progress: Progress = lambda _step: None,
) -> EnginePlan:
    """Build an engine.

    Args:
        library: TensorRT or TensorRT-RTX.
        graph: an ONNX graph with inferred types; its pixels may be cast late (`cast_first`).
        options: how to build.
        batch: smallest, optimal and largest batch of the one profile.
        gpu: whether there is a GPU here, so that the engine can be deserialised and inspected.
        plugins: shared libraries of plugins that the graph needs.
        progress: told what the builder does.

    Raises:
        UsageError: the library cannot do what an option asks for.
        ExportError: the library refused the graph, or could not build it.
    """
    messages = Messages()
    logger = make_logger(library, messages)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # those of its own bindings
        for plugin in plugins:
            load_plugin(library, plugin)
        builder = library.module.Builder(logger)
        network = builder.create_network(_network_flags(library))
        early = cast_first(graph)
        parse(library, early, network, logger, messages)
        config = _configure(library, builder, network, options, batch)
        phases = BuildPhases(progress)
        monitor = make_monitor(library, phases)  # the configuration does not own it
        config.progress_monitor = monitor
        has_cache = options.timing_cache is not None and timing_cache.attach(
            library, config, options.timing_cache
        )
        start = time.perf_counter()
        content = builder.build_serialized_network(network, config)
        seconds = time.perf_counter() - start
        if phases.interrupted is not None:
            raise phases.interrupted
        if content is None:
            raise ExportError(f"{library.title} could not build the engine: {messages.summary()}")
        if has_cache and options.timing_cache is not None:
            timing_cache.keep(config, options.timing_cache)
        found = read_network(library, network)
        plan = bytes(content)
        if gpu:
            found = _inspected(library, plan, logger, found, host_code=options.version_compatible)
        tf32 = bool(config.get_flag(library.module.BuilderFlag.TF32))
    if tf32 and found.precision == "fp32":
        found = replace(found, precision="tf32")
    return EnginePlan(plan, found, seconds, tf32, tuple(messages.warnings))


def _network_flags(library: Library) -> int:
    """TensorRT 10 has to be told; after it, every network is strongly typed."""
    if library.is_strongly_typed_by_itself:
        return 0
    return 1 << int(library.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _configure(
    library: Library,
    builder: Any,  # noqa: ANN401 # as `Library.module`
    network: Any,  # noqa: ANN401 # as `Library.module`
    options: EngineOptions,
    batch: BatchRange,
) -> Any:  # noqa: ANN401 # as `Library.module`
    trt = library.module
    config = builder.create_builder_config()
    wanted = {
        trt.BuilderFlag.TF32: options.tf32,
        trt.BuilderFlag.REFIT: options.refit,
        trt.BuilderFlag.STRIP_PLAN: options.strip,
        trt.BuilderFlag.VERSION_COMPATIBLE: options.version_compatible,
    }
    for flag, on in wanted.items():
        (config.set_flag if on else config.clear_flag)(flag)
    config.builder_optimization_level = options.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.memory_gib is not None:
        limit = int(options.memory_gib * 2**30)
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, limit)
    if library.is_rtx:
        _set_compute_capabilities(library, config, options.compute_capabilities)
    elif options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    profile = builder.create_optimization_profile()
    pixels = network.get_input(0)
    shapes = [
        (size, *tuple(pixels.shape)[1:]) for size in (batch.minimum, batch.optimum, batch.maximum)
    ]
    profile.set_shape(pixels.name, *shapes)
    config.add_optimization_profile(profile)
    return config


def _set_compute_capabilities(library: Library, config: Any, asked: tuple[str, ...]) -> None:  # noqa: ANN401 # no types
    kinds = library.module.ComputeCapability
    config.num_compute_capabilities = len(asked)
    for index, text in enumerate(asked):
        config.set_compute_capability(getattr(kinds, f"SM{text.replace('.', '')}"), index)


def check_compute_capabilities(library: Library, asked: tuple[str, ...]) -> None:
    """Whether the library compiles for these.

    Raises:
        UsageError: it does not; lists those it does.
    """
    if not library.is_rtx:
        if asked:
            raise UsageError(
                "--compute-capability is for TensorRT-RTX: TensorRT builds for the GPU at hand "
                "(--hardware-compatible: for Ampere and later)"
            )
        return
    kinds = library.module.ComputeCapability
    known = sorted(int(name[2:]) for name in dir(kinds) if name.startswith("SM"))
    names = [f"{number // 10}.{number % 10}" for number in known]
    for text in asked:
        if text not in names:
            raise UsageError(
                f"--compute-capability {text}: TensorRT-RTX {library.version} compiles for "
                f"{', '.join(names)}"
            )


def _inspected(
    library: Library,
    plan: bytes,
    logger: Any,  # noqa: ANN401 # as `Library.module`
    network: Found,
    *,
    host_code: bool,
) -> Found:
    """What the inspector says; what the network says where the inspector lists no product."""
    runtime = make_runtime(library, logger, host_code=host_code)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return network  # built for another GPU
    layout = library.module.LayerInformationFormat.JSON
    try:
        found = read_inspector(engine.create_engine_inspector().get_engine_information(layout))
    except ValueError:
        return network
    return confirm(network, found)
