"""Int8 of OpenVINO, by NNCF: the same products as in the ONNX graph, and no others."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from export.quantization.recipe import Recipe
from lavit_deploy.errors import MissingDependencyError
from lavit_deploy.runtimes.openvino import import_openvino

if TYPE_CHECKING:
    from types import ModuleType


def import_nncf() -> ModuleType:
    """The nncf package, silent and without reports to its maker.

    Raises:
        MissingDependencyError: it is not installed.
    """
    os.environ.setdefault("NNCF_CI", "1")  # read on import: no telemetry
    try:
        import nncf  # type: ignore[import-untyped,unused-ignore] # published without types
    except ImportError:
        raise MissingDependencyError(
            "nncf", extra="int8", purpose="quantize for OpenVINO"
        ) from None
    nncf.set_log_level(logging.ERROR)
    return nncf


def write_int8(recipe: Recipe, xml: Path, float_blocks: Collection[str]) -> None:
    """Quantize weights and activations, and write the IR.

    SmoothQuant is off: with it the logits of this family were further from float32.

    Args:
        recipe: products and calibration pictures.
        xml: where the IR belongs; its `.bin` lies beside it.
        float_blocks: blocks that stay float.
    """
    nncf, ov = import_nncf(), import_openvino()
    pictures = recipe.calibration.images
    model = nncf.quantize(
        ov.Core().read_model(recipe.file),
        nncf.Dataset([pictures[index : index + 1] for index in range(len(pictures))]),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(pictures),
        ignored_scope=nncf.IgnoredScope(names=_left_in_float(recipe, float_blocks), validate=False),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=-1, convolution=-1)
        ),
    )
    _save(model, xml)


def write_int8_weights(recipe: Recipe, xml: Path) -> None:
    """Store weights as int8, compute in float, and write the IR."""
    nncf, ov = import_nncf(), import_openvino()
    model = nncf.compress_weights(
        ov.Core().read_model(recipe.file),
        mode=nncf.CompressWeightsMode.INT8_SYM,
        ignored_scope=nncf.IgnoredScope(names=_left_in_float(recipe, ()), validate=False),
    )
    _save(model, xml)


def _save(model: object, xml: Path) -> None:
    import_openvino().save_model(model, xml, compress_to_fp16=False)


def _left_in_float(recipe: Recipe, float_blocks: Collection[str]) -> list[str]:
    """Every product of the graph that is not to be quantized; OpenVINO keeps ONNX's node names."""
    chosen = {item.node for item in recipe.products if item.block not in float_blocks}
    kinds = {"MatMul", "Gemm", "Conv"}
    nodes = recipe.graph.graph.node
    return [node.name for node in nodes if node.op_type in kinds and node.name not in chosen]
