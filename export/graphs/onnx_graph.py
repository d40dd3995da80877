"""Models to ONNX: uint8 pictures in, float32 logits out, checked before it is kept."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from lavit_deploy.checkpoint import Checkpoint
from lavit_deploy.common.atomic_files import atomic_path
from lavit_deploy.common.errors import ExportError
from lavit_deploy.families.family import Configuration
from lavit_deploy.manifest import BatchRange, Precision
from lavit_deploy.preprocess import Preprocess

OPSET = 22
"""Gelu is one operator since 20, LayerNormalization since 17; Conv takes bfloat16 since 22."""

SCOPES_KEY = "pkg.torch.onnx.name_scopes"
"""Node metadata with the modules that a node came from; it names the layer that differs."""

INPUT_NAME = "images"
OUTPUT_NAME = "logits"


class WithNormalisation(nn.Module):
    """A model with its normalisation inside: uint8 [B, H, W, C] -> what the model gives.

    The service then sends a quarter of the bytes, and there is no mean or std to get wrong.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.model = model
        std = torch.tensor(preprocess.std, dtype=torch.float64) * 255.0
        mean = torch.tensor(preprocess.mean, dtype=torch.float64) * 255.0
        # (x / 255 - mean) / std as one multiply-add: x * (1 / 255 std) - mean / std.
        self.register_buffer("scale", (1.0 / std).float()[:, None, None])  # [3, 1, 1]
        self.register_buffer("shift", (mean / std).float()[:, None, None])  # [3, 1, 1]

    def forward(self, images: Tensor) -> Tensor:
        x = images.permute(0, 3, 1, 2).float()  # [B, H, W, C] -> [B, 3, H, W]
        return self.model(x * self.scale - self.shift)


def write_onnx(
    checkpoint: Checkpoint,
    model: nn.Module,
    path: Path,
    *,
    batch: BatchRange,
    precision: Precision,
) -> onnx.ModelProto:
    """Export, annotate, check and write one graph.

    Args:
        checkpoint: where names and preprocessing come from.
        model: the model to export, folded or not, already in its precision and in evaluation mode.
        path: file to write, with all weights inside.
        batch: range of the dynamic batch.
        precision: recorded in the file.

    Returns:
        The graph as written, with inferred shapes.

    Raises:
        ExportError: the exporter, the ONNX checker or shape inference refused the model, or a
            LayerNorm was taken apart.
    """
    ready = checkpoint.family.takes_pixels(model)
    module = model if ready else WithNormalisation(model, checkpoint.preprocess)
    graph = _export(module, checkpoint.config, batch)
    _annotate(graph, checkpoint, precision)
    checked = check(graph)
    layer_norms = sum(isinstance(module, nn.LayerNorm) for module in model.modules())
    found = sum(node.op_type == "LayerNormalization" for node in checked.graph.node)
    if found != layer_norms:
        raise ExportError(
            f"the graph has {found} LayerNormalization nodes for {layer_norms} LayerNorms: "
            "one was decomposed, which overflows in half precision"
        )
    with atomic_path(path) as temporary:
        onnx.save(checked, temporary)
    return checked


def _export(module: nn.Module, config: Configuration, batch: BatchRange) -> onnx.ModelProto:
    height, width = config.image_size
    # Two images, because torch.export treats a size of one as a constant.
    example = torch.zeros(2, height, width, config.in_channels, dtype=torch.uint8)
    dimension = torch.export.Dim("batch", min=1, max=max(batch.maximum, 2))
    try:
        with _quiet():
            program = torch.onnx.export(
                module.eval(),
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes=({0: dimension},),
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"PyTorch could not export the model to ONNX: {error}") from error
    if program is None:
        raise ExportError("PyTorch's exporter returned no graph")
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks about itself (such as that torchvision is absent) to itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)


def _annotate(graph: onnx.ModelProto, checkpoint: Checkpoint, precision: Precision) -> None:
    """Say in the file what it is; drop the exporter's notes, which hold paths of this machine."""
    for item in (
        *graph.graph.node,
        *graph.graph.input,
        *graph.graph.output,
        *graph.graph.value_info,
    ):
        kept = [prop for prop in item.metadata_props if prop.key == SCOPES_KEY]
        del item.metadata_props[:]
        item.metadata_props.extend(kept)
    for initializer in graph.graph.initializer:
        del initializer.metadata_props[:]
    del graph.metadata_props[:]
    graph.graph.name = checkpoint.architecture
    graph.producer_name = "lavit-deploy"
    about = {
        "architecture": checkpoint.architecture,
        "checkpoint_sha256": checkpoint.sha256,
        "classes": json.dumps(checkpoint.classes, ensure_ascii=False),
        "family": checkpoint.family.name,
        "config": json.dumps(checkpoint.config.to_dict()),
        "precision": precision,
        "preprocess": checkpoint.preprocess.model_dump_json(),
    }
    for key, value in about.items():
        graph.metadata_props.add(key=key, value=value)


def check(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Run the ONNX checker and strict shape inference.

    Returns:
        The graph with the type and shape of every value.

    Raises:
        ExportError: the graph is invalid, or the shape of a value cannot be inferred.
    """
    try:
        onnx.checker.check_model(graph, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(graph, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the ONNX graph is invalid: {error}") from error
    known = {
        value.name
        for value in (*inferred.graph.value_info, *inferred.graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    unknown = [name for node in inferred.graph.node for name in node.output if name not in known]
    if unknown:
        raise ExportError(f"the ONNX graph leaves the shapes of {unknown[:5]} unknown")
    return inferred
