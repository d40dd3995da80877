"""ONNX Runtime Mobile: `.ort` files for ARM and for x86-64."""

from __future__ import annotations

from lavit_deploy.export.mobile.target import Format, Variant

ORT = Format(
    name="ort",
    source="onnx",
    variants=(
        Variant("ort-fp32-arm", "fp32.arm.ort", "fp32", "for phones with ARM processors"),
        Variant("ort-fp32-amd64", "fp32.amd64.ort", "fp32", "for small x86-64 machines"),
    ),
    modules=("onnxruntime",),
    requirement='"lavit-deploy[serve]"',
)
