"""Every runtime of a server, one line each; what is not here is for a phone or a board.

Installed packages add theirs as entry points of the group `lavit_deploy.runtimes`.
"""

from __future__ import annotations

from collections.abc import Iterator

from lavit_deploy.common.plugins import installed
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

GROUP = "lavit_deploy.runtimes"
"""Entry points by which installed packages add runtimes."""


def all_specs() -> Iterator[RuntimeSpec]:
    """This project's runtimes, then those that installed packages add, which takes a look."""
    yield from SPECS
    yield from installed(GROUP, RuntimeSpec)


def runtime_names() -> tuple[str, ...]:
    """The names that a manifest and `--runtime` may use."""
    return tuple(spec.name for spec in all_specs())


def distributions() -> tuple[str, ...]:
    """Packages whose versions say what a measurement was made with."""
    return tuple(dict.fromkeys(name for spec in all_specs() for name in spec.distributions))


def find_spec(name: str) -> RuntimeSpec | None:
    """The runtime of a name; None for one of a phone or a board, or of a later version."""
    return next((spec for spec in all_specs() if spec.name == name), None)


def is_for_servers(name: str) -> bool:
    """Whether artifacts of this runtime can run on a server at all."""
    return find_spec(name) is not None
