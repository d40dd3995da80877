"""ExecuTorch: `.pte`, delegated to XNNPACK."""

from __future__ import annotations

from export.mobile.target import Format, Variant, plan_format
from export.request import Request
from export.targets.base import Planned

EXECUTORCH = Format(
    name="executorch",
    source="uint8",
    variants=(
        Variant("executorch-fp32", "fp32.pte", "fp32", "the exact one"),
        Variant("executorch-int8", "int8.pte", "int8", "a quarter of the size, integer products"),
    ),
    modules=("executorch", "torchao"),
    requirement="executorch==1.5.1 torchao==0.18.0",
)


def plan_executorch(request: Request) -> Planned:
    """Float, and int8 with ranges of activations taken as they come.

    Raises:
        MissingDependencyError: asked for by name and not installed.
    """
    return plan_format(EXECUTORCH, request)
