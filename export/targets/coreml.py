"""Core ML: `.mlpackage` classifiers for Apple's systems."""

from __future__ import annotations

from lavit_deploy.export.mobile.target import Format, Variant

COREML = Format(
    name="coreml",
    source="planar",
    variants=(
        Variant("coreml-fp16", "fp16.mlpackage", "fp16", "what the Neural Engine computes in"),
        Variant("coreml-int8", "int8.mlpackage", "int8-weights", "int8 weights, fp16 arithmetic"),
        Variant("coreml-palette6", "p6.mlpackage", "palette6", "64 values for each weight"),
    ),
    modules=("coremltools", "torch", "sklearn"),
    requirement="coremltools==9.0 scikit-learn torch==2.13.0",
    method="saved program executed in PyTorch, results rounded to fp16; not run on a device",
)
