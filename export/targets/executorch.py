"""ExecuTorch: `.pte`, delegated to XNNPACK."""

from __future__ import annotations

from export.mobile.target import Format, Variant, plan_format
from export.request import Request
from export.targets.base import Planned
from lavit_deploy.preprocess import Pixels

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


def plan_executorch(request: Request, calibration: Pixels | None = None) -> Planned:
    """Float, and int8 where there are pictures to calibrate on.

    Raises:
        MissingDependencyError: asked for by name and not installed.
    """
    return plan_format(EXECUTORCH, request, calibration)
