"""What the user of `lavit-export` asks for; light, so that the command line can name it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lavit_deploy.manifest import Device, Precision

TargetName = Literal["auto", "onnx", "openvino"]
TARGETS: tuple[TargetName, ...] = get_args(TargetName)


@dataclass(frozen=True)
class Request:
    """What the user asks to have built.

    Attributes:
        targets: the formats named; "auto" stands for all that can be built and run here.
        half: "fp16" or "bf16" when asked for, None for float32 alone.
        device: where artifacts are checked and timed.
    """

    targets: frozenset[TargetName] = frozenset({"auto"})
    half: Precision | None = None
    device: Device = "cpu"

    def names(self, target: TargetName) -> bool:
        """Whether a target was asked for by its name."""
        return target in self.targets

    def wants(self, target: TargetName) -> bool:
        """Whether a target was asked for, by its name or by "auto"."""
        return self.names(target) or "auto" in self.targets
