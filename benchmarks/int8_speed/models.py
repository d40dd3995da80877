"""What is measured: artifacts of a bundle, or a rival through the same code of int8."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from int8_speed.report import PLAIN, Row
from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.bundle.open import open_artifact
from lavit_deploy.checkpoint import Checkpoint
from lavit_deploy.export.quantization.accuracy_loss import relative_error
from lavit_deploy.export.quantization.activation_ranges import METHODS, collect, steps
from lavit_deploy.export.quantization.calibration import LabelledPictures, Split
from lavit_deploy.export.quantization.qdq import insert
from lavit_deploy.export.quantization.quantizable_nodes import (
    Product,
    output_axis,
    values_of_the_picture,
)
from lavit_deploy.export.quantization.scheme import run_graph
from lavit_deploy.preprocess import Pixels, Preprocess, normalise
from lavit_deploy.profiles.baselines import BASELINES
from lavit_deploy.profiles.counting.architecture import Attention
from lavit_deploy.runtimes.base import Logits
from lavit_deploy.runtimes.onnxruntime import OnnxRuntime, import_onnxruntime
from lavit_deploy.runtimes.openvino import OpenVinoRuntime, cpu_precisions, import_openvino

_LARGEST = 64
_TRIAL_PICTURES = 16

Call = Callable[[Pixels], Logits]


@dataclass(frozen=True)
class Measured:
    """Artifacts that are open.

    Attributes:
        rows: what is known of them beforehand, "plain" first.
        calls: uint8 pictures [B, H, W, 3] -> logits [B, K], by artifact.
    """

    rows: list[Row]
    calls: dict[str, Call]


def open_bundle(bundle: Bundle, checkpoint: Checkpoint, folder: Path, stack: ExitStack) -> Measured:
    """Every artifact of a bundle that runs on this CPU, and the plain export."""
    name = bundle.manifest.name
    plain = export_plain(checkpoint.build(), folder, checkpoint.config.image_size)
    rows = [Row(name, PLAIN, _mib(plain))]
    calls: dict[str, Call] = {PLAIN: _plain_call(plain, checkpoint.preprocess)}
    for item in bundle.manifest.artifacts:
        if item.runtime not in {"onnxruntime", "openvino"} or "cpu" not in item.devices:
            continue
        about = item.quantization
        calls[item.name] = stack.enter_context(open_artifact(bundle, item)).infer
        rows.append(
            Row(
                name,
                item.name,
                item.total_bytes / 2**20,
                float_blocks=about.float_blocks if about else (),
                note="" if item.passed else f"failed: {item.parity.reason}",
            )
        )
    return Measured(rows, calls)


def open_rival(name: str, split: Split, folder: Path, stack: ExitStack) -> Measured:
    """A baseline with random weights, in float and in int8 as a LaViT's artifacts are made."""
    preprocess = Preprocess()
    attention: Attention = (
        "eager" if name.startswith("swin") else "sdpa"
    )  # as transformers exports each
    model = BASELINES[name].build(attention)
    plain = export_plain(_Logits(model), folder, (224, 224))
    graph = _with_pixels(model, preprocess, folder)
    onnx_files = {"onnx-fp32": folder / "fp32.onnx"}
    onnx.save(graph, onnx_files["onnx-fp32"])
    for precision, quantized in _quantized(graph, split.calibration).items():
        onnx_files[f"onnx-{precision}"] = folder / f"{precision}.onnx"
        onnx.save(quantized, onnx_files[f"onnx-{precision}"])
    rows, calls = [Row(name, PLAIN, _mib(plain))], {PLAIN: _plain_call(plain, preprocess)}
    for artifact, file in onnx_files.items():
        calls[artifact] = stack.enter_context(
            OnnxRuntime(file, max_batch=_LARGEST, device="cpu")
        ).infer
        rows.append(Row(name, artifact, _mib(file)))
    for artifact, file in onnx_files.items():
        xml = _as_ir(file)
        rests = cpu_precisions() if artifact != "onnx-int8-weights" else ("fp32",)
        for rest in rests:
            key = artifact.replace("onnx", "openvino")
            if rest != "fp32":
                key = key.removesuffix("-fp32") + f"-{rest}"
            calls[key] = stack.enter_context(
                OpenVinoRuntime(xml, max_batch=_LARGEST, precision=rest)
            ).infer
            rows.append(Row(name, key, _mib(xml) + _mib(xml.with_suffix(".bin"))))
    return Measured(rows, calls)


def _quantized(
    graph: onnx.ModelProto, calibration: LabelledPictures
) -> Mapping[str, onnx.ModelProto]:
    """Int8 and int8 weights: all weighted products but the first, the best method of ranges."""
    dimensions = {item.name: len(item.dims) for item in graph.graph.initializer}
    picture = values_of_the_picture(graph)
    found = [
        Product(
            node.name,
            node.input[0],
            node.input[1],
            output_axis(node, dimensions[node.input[1]]),
            "all",
        )
        for node in graph.graph.node
        if node.op_type in {"MatMul", "Gemm", "Conv"}
        and node.input[1] in dimensions
        and node.input[0] not in picture
    ]
    histograms = collect(graph, [item.activation for item in found], calibration.images)
    tries = [insert(graph, found, steps(histograms, method)) for method in METHODS]
    images = calibration.first(_TRIAL_PICTURES).images
    wanted = run_graph(graph, images)
    best = min(tries, key=lambda made: relative_error(run_graph(made, images), wanted))
    return {"int8": best, "int8-weights": insert(graph, found, None)}


class _Logits(nn.Module):
    """A model of transformers that gives its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(pixel_values=images).logits


class _Pixels(nn.Module):
    """The same, from uint8 pictures [B, H, W, 3]: as a bundle's artifacts take them."""

    def __init__(self, model: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.model = model
        mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
        self.register_buffer("scale", (1 / (255 * std)).view(1, 3, 1, 1))  # [3] -> [1, 3, 1, 1]
        self.register_buffer("shift", (mean / std).view(1, 3, 1, 1))  # [3] -> [1, 3, 1, 1]

    def forward(self, images: Tensor) -> Tensor:
        x = images.permute(0, 3, 1, 2).to(torch.float32)  # [B, H, W, 3] -> [B, 3, H, W]
        return self.model(pixel_values=x * self.scale - self.shift).logits


def _with_pixels(model: nn.Module, preprocess: Preprocess, folder: Path) -> onnx.ModelProto:
    pictures = torch.zeros(2, 224, 224, 3, dtype=torch.uint8)
    file = _export(_Pixels(model, preprocess).eval(), pictures, folder / "pixels.onnx")
    return onnx.shape_inference.infer_shapes(onnx.load(file))


def export_plain(model: nn.Module, folder: Path, size: tuple[int, int]) -> Path:
    """What a user gets without this project: float32 images [B, 3, H, W] in."""
    return _export(model.eval(), torch.zeros(2, 3, *size), folder / "plain.onnx")


def _export(model: nn.Module, images: Tensor, file: Path) -> Path:
    torch.onnx.export(
        model,
        (images,),
        file,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=_LARGEST)},),
        input_names=["images"],
        external_data=False,
        verbose=False,
    )
    return file


def _plain_call(file: Path, preprocess: Preprocess) -> Call:
    session = import_onnxruntime().InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(
        session.run(None, {"images": normalise(images, preprocess)})[0]
    )


def _as_ir(file: Path) -> Path:
    ov = import_openvino()
    xml = file.with_suffix(".xml")
    ov.save_model(ov.Core().read_model(file), xml, compress_to_fp16=False)
    return xml


def _mib(file: Path) -> float:
    return file.stat().st_size / 2**20
