"""LiteRT (TensorFlow Lite): `.tflite`, for Android and boards."""

from __future__ import annotations

from lavit_deploy.export.mobile.target import Format, Variant

LITERT = Format(
    name="litert",
    source="uint8",
    variants=(
        Variant("litert-fp32", "fp32.tflite", "fp32", "the exact one"),
        Variant("litert-fp16", "fp16.tflite", "fp16", "half the size"),
        Variant("litert-int8", "int8.tflite", "int8", "a quarter of the size, integer products"),
    ),
    modules=("litert_torch", "ai_edge_quantizer", "ai_edge_litert"),
    requirement=(
        "litert-torch==0.10.0 ai-edge-quantizer==0.10.0 ai-edge-litert==2.3.0 torch==2.13.0"
    ),
)
