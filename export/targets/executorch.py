"""ExecuTorch: `.pte`, delegated to XNNPACK."""

from __future__ import annotations

from lavit_deploy.export.mobile.target import Format, Variant

EXECUTORCH = Format(
    name="executorch",
    source="uint8",
    variants=(
        Variant("executorch-fp32", "fp32.pte", "fp32", "the exact one"),
        Variant("executorch-int8", "int8.pte", "int8", "a quarter of the size, integer products"),
    ),
    modules=("executorch", "torchao", "torch"),
    requirement="executorch==1.5.1 torchao==0.18.0 torch==2.13.0",
)
