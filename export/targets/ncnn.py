"""ncnn: `.param` and `.bin`, for phones and boards."""

from __future__ import annotations

from lavit_deploy.export.mobile.target import Format, Variant

NCNN = Format(
    name="ncnn",
    source="planar",
    variants=(
        Variant("ncnn-fp32", "fp32.ncnn.param", "fp32", "the exact one"),
        Variant("ncnn-fp16", "fp16.ncnn.param", "fp16", "half the size"),
    ),
    modules=("ncnn", "pnnx", "torch"),
    requirement="ncnn==1.0.20261020 pnnx==20261020 torch==2.13.0",
)
