"""What the user of `lavit-export` asks for; light, so that the command line can name it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from lavit_deploy.manifest import Device, Precision

if TYPE_CHECKING:
    from lavit_deploy.export.quantization.options import Quantize

TargetName = Literal[
    "auto",
    "onnx",
    "openvino",
    "onnx-tensorrt",
    "tensorrt",
    "tensorrt-rtx",
    "aoti",
    "ort",
    "executorch",
    "litert",
    "coreml",
    "ncnn",
    "triton-repo",
]
TARGETS: tuple[TargetName, ...] = get_args(TargetName)
TRITON: TargetName = "triton-repo"
"""Also its step, and what the manifest calls it where it could not be built."""

BATCH = (1, 8, 64)
"""Batch sizes of artifacts: the smallest, the one that they are optimised for, the largest."""
MAX_DROP = 0.5
"""Points of accuracy that int8 may lose on held-out pictures."""
MAX_REFUSED = 5.0
"""Percent of known pictures that may be answered as unknown."""

LessAttention = Literal["native", "plugin", "auto"]
"""Less-attention layers as ONNX operators, as nodes of the plugin, or as the faster of the two."""

NarrowMlp = Literal["native", "fused", "auto"]
"""MLPs of narrow tokens as PyTorch operators, as one kernel, or as the faster of the two."""


@dataclass(frozen=True)
class EngineOptions:
    """How TensorRT and TensorRT-RTX build.

    Attributes:
        compute_capabilities: of TensorRT-RTX's engines, such as ("8.6", "8.9"); empty for Ampere
            and later.
        tf32: let float32 products round their factors to TF32's 11 bits of significand.
        hardware_compatible: TensorRT: an engine for Ampere and later, not for this GPU alone.
        version_compatible: TensorRT: an engine that later versions can load too.
        refit: weights of the built engine can be exchanged.
        strip: leave the weights out of the engine; they are filled in from the ONNX file on load.
        optimization_level: 0 (builds fastest) to 5 (searches longest).
        memory_gib: device memory that the builder may try kernels with, GiB; None for all of it.
        timing_cache: where TensorRT keeps kernel timings between builds.
        less_attention: how less-attention layers are built.
        plugin: the library with `lavit::LessAttention`; None where there is none.
    """

    compute_capabilities: tuple[str, ...] = ()
    tf32: bool = False
    hardware_compatible: bool = False
    version_compatible: bool = False
    refit: bool = False
    strip: bool = False
    optimization_level: int = 3
    memory_gib: float | None = None
    timing_cache: Path | None = None
    less_attention: LessAttention = "auto"
    plugin: Path | None = None


@dataclass(frozen=True)
class Request:
    """What the user asks to have built.

    Attributes:
        targets: the formats named; "auto" stands for all that can be built and run here.
        half: "fp16" or "bf16" when asked for, None for float32 alone.
        device: where artifacts are checked and timed.
        engine: how TensorRT's engines are built.
        mlp: how the narrow MLPs of AOTInductor's packages are built.
        mobile: build every mobile format whose packages are there.
        quantize: int8, None when not asked for.
    """

    targets: frozenset[TargetName] = frozenset({"auto"})
    half: Precision | None = None
    device: Device = "cpu"
    engine: EngineOptions = EngineOptions()
    mlp: NarrowMlp = "auto"
    mobile: bool = False
    quantize: Quantize | None = None

    def names(self, target: TargetName) -> bool:
        """Whether a target was asked for by its name."""
        return target in self.targets

    def wants(self, target: TargetName) -> bool:
        """Whether a target was asked for, by its name or by "auto"."""
        return self.names(target) or "auto" in self.targets
