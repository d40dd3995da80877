"""Every runtime of a server, one line each; what is not here is for a phone or a board."""

from __future__ import annotations

from lavit_deploy.runtimes import aoti, onnxruntime, openvino, tensorrt
from lavit_deploy.runtimes.spec import RuntimeSpec

SPECS: tuple[RuntimeSpec, ...] = (
    onnxruntime.SPEC,
    openvino.SPEC,
    onnxruntime.TENSORRT_SPEC,
    tensorrt.SPEC,
    tensorrt.RTX_SPEC,
    aoti.SPEC,
)


def runtime_names() -> tuple[str, ...]:
    """The names that a manifest and `--runtime` may use."""
    return tuple(spec.name for spec in SPECS)


def find_spec(name: str) -> RuntimeSpec | None:
    """The runtime of a name; None for one of a phone or a board, or of a later version."""
    return next((spec for spec in SPECS if spec.name == name), None)


def is_for_servers(name: str) -> bool:
    """Whether artifacts of this runtime can run on a server at all."""
    return find_spec(name) is not None
