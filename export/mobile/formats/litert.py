"""LiteRT (TensorFlow Lite): `.tflite` files with labels and preprocessing in their metadata."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lavit_deploy.export.mobile.formats import Classify
from lavit_deploy.export.mobile.formats.format import Format, MobileVariant

FORMAT = Format(
    name="litert",
    source="uint8",
    variants=(
        MobileVariant("litert-fp32", "fp32.tflite", "fp32", "the exact one"),
        MobileVariant("litert-fp16", "fp16.tflite", "fp16", "half the size"),
        MobileVariant(
            "litert-int8", "int8.tflite", "int8", "a quarter of the size, integer products"
        ),
    ),
    modules=("litert_torch", "ai_edge_quantizer", "ai_edge_litert"),
    requirement=(
        "litert-torch==0.10.0 ai-edge-quantizer==0.10.0 ai-edge-litert==2.3.0 torch==2.13.0"
    ),
)

_INT8_OPERATORS = ("FULLY_CONNECTED", "CONV_2D")
"""Products with constants. Products of activations stay float: in int8 they broke the model."""

_DELEGATE = "DELEGATE"
_LABELS = "labels.txt"
_AXIS_LABELS = 2  # AssociatedFileType.TENSOR_AXIS_LABELS of the metadata schema


def imports() -> None:
    """Load the packages that `load` needs."""
    import ai_edge_litert.interpreter  # noqa: F401 - loaded for its cost alone


def convert(program: Path, out: Path, precision: str, about: dict[str, Any]) -> dict[str, Any]:
    """Write one `.tflite`.

    Args:
        program: a saved `torch.export` program that takes uint8 [1, H, W, C].
        out: the file to write.
        precision: "fp32", "fp16" (weights) or "int8" (weights per channel, and activations
            rounded as they come, in ranges of their own).
        about: labels and preprocessing, as in the sidecar.

    Returns:
        The version and the operators that are not delegated, with how often they occur.
    """
    import litert_torch
    import torch

    loaded = torch.export.load(program)
    plain = out if precision == "fp32" else out.with_suffix(".float.tflite")
    litert_torch.convert(loaded.module(), loaded.example_inputs[0]).export(str(plain))
    if precision != "fp32":
        _quantize(plain, out, precision)
        plain.unlink()
    out.write_bytes(_with_metadata(out.read_bytes(), about))
    return {
        "version": version("ai-edge-litert"),
        "format": "TFLite 3",
        "undelegated": _undelegated_operators(out),
    }


def _quantize(plain: Path, out: Path, precision: str) -> None:
    from ai_edge_quantizer import qtyping, quantizer
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    made = quantizer.Quantizer(str(plain))
    for name in _INT8_OPERATORS:
        operator = qtyping.TFLOperationName(name)
        if precision == "int8":
            made.add_dynamic_config(".*", operator, num_bits=8)
        else:
            made.add_weight_only_config(
                ".*", operator, num_bits=16, algorithm_key=AlgorithmName.FLOAT_CASTING
            )
    out.write_bytes(bytes(made.quantize(None).quantized_model))


def precision_found(file: Path) -> str:
    """What most products with constants compute in, by the size of the constants.

    An int8 constant that a product takes as it is makes the product an integer one; one that is
    turned to float before is weights alone.
    """
    from ai_edge_litert import schema_py_generated as schema

    tree = schema.ModelT.InitFromPackedBuf(file.read_bytes(), 0)
    types, operators = schema.TensorType, schema.BuiltinOperator
    names = {types.FLOAT32: "fp32", types.FLOAT16: "fp16", types.INT8: "int8"}
    sizes: Counter[str] = Counter()
    for graph in tree.subgraphs:
        codes = [tree.operatorCodes[item.opcodeIndex].builtinCode for item in graph.operators]
        pairs = list(zip(codes, graph.operators, strict=True))
        widened = {
            item.outputs[0]: item.inputs[0] for code, item in pairs if code == operators.DEQUANTIZE
        }
        for code, item in pairs:
            if code in {operators.FULLY_CONNECTED, operators.CONV_2D}:
                index = item.inputs[1]
                tensor = graph.tensors[widened.get(index, index)]
                kind = names.get(tensor.type, f"TFLite type {tensor.type}")
                weights = f"{kind}-weights" if kind == "int8" and index in widened else kind
                sizes[weights] += int(np.prod(tensor.shape))
    return sizes.most_common(1)[0][0]


def _undelegated_operators(file: Path) -> dict[str, int]:
    """Operators that XNNPACK does not run, by name.

    The interpreter lists operators and the delegate's nodes that replace some of them, and does not
    say which. Walking back from the result, through the delegate's node wherever there is one,
    meets those that run.
    """
    from ai_edge_litert.interpreter import Interpreter

    reader = Interpreter(str(file))
    reader.allocate_tensors()
    makers: dict[int, dict[str, Any]] = {}
    for operator in reader._get_ops_details():  # noqa: SLF001 - there is no public one
        for index in operator["outputs"]:
            if index not in makers or operator["op_name"] == _DELEGATE:
                makers[index] = operator
    met: dict[int, str] = {}
    wanted = [item["index"] for item in reader.get_output_details()]
    while wanted:
        maker = makers.get(wanted.pop())
        if maker is not None and maker["index"] not in met:
            met[maker["index"]] = maker["op_name"]
            wanted.extend(maker["inputs"])
    return dict(Counter(name for name in met.values() if name != _DELEGATE))


def _with_metadata(model: bytes, about: dict[str, Any]) -> bytes:
    """Labels and preprocessing where TensorFlow Lite's metadata has its place for them.

    The flatbuffer follows metadata_schema.fbs of tflite-support; the files that it names are a
    ZIP archive behind the model, which readers of the model do not see.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    tree = schema.ModelT.InitFromPackedBuf(model, 0)
    for buffer in tree.buffers:
        if buffer.offset > 1:  # weights may lie behind the flatbuffer, which moves when it grows
            data = model[buffer.offset : buffer.offset + buffer.size]
            buffer.data, buffer.offset, buffer.size = np.frombuffer(data, np.uint8), 0, 0
    tree.buffers.append(schema.BufferT())
    tree.buffers[-1].data = np.frombuffer(_metadata(about), dtype=np.uint8)
    entry = schema.MetadataT()
    entry.name = b"TFLITE_METADATA"
    entry.buffer = len(tree.buffers) - 1
    tree.metadata = [*(tree.metadata or []), entry]
    builder = flatbuffers.Builder(len(model) + (1 << 16))
    builder.Finish(tree.Pack(builder), file_identifier=b"TFL3")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr(zipfile.ZipInfo(_LABELS), "\n".join(about["classes"]) + "\n")
        files.writestr(zipfile.ZipInfo("lavit.json"), json.dumps(about, ensure_ascii=False))
    return bytes(builder.Output()) + archive.getvalue()


def _metadata(about: dict[str, Any]) -> bytes:
    """A ModelMetadata table; slots are those of metadata_schema.fbs, version M001."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)

    def table(slots: int, fields: dict[int, int]) -> int:
        builder.StartObject(slots)
        for slot, offset in fields.items():
            builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
        return builder.EndObject()

    def vector(offset: int) -> int:
        builder.StartVector(4, 1, 4)
        builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()

    text = builder.CreateString
    name, labels = text(_LABELS), text("one class in a line, in the order of the logits")
    builder.StartObject(5)
    builder.PrependUOffsetTRelativeSlot(0, name, 0)
    builder.PrependUOffsetTRelativeSlot(1, labels, 0)
    builder.PrependInt8Slot(2, _AXIS_LABELS, 0)
    files = vector(builder.EndObject())
    image = table(7, {0: text("image"), 1: text(about["input"]["description"])})
    logits = table(7, {0: text("logits"), 1: text("one for each class"), 6: files})
    graph = table(7, {2: vector(image), 3: vector(logits)})
    root = table(
        8, {0: text(about["name"]), 1: text(json.dumps(about["preprocess"])), 3: vector(graph)}
    )
    builder.Finish(root, file_identifier=b"M001")
    return bytes(builder.Output())


def load(file: Path) -> Classify:
    """A function of uint8 [1, H, W, C] that gives logits [1, K]."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file), num_threads=len(os.sched_getaffinity(0)))
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()

    def classify(image: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(source["index"], image)
        interpreter.invoke()
        return interpreter.get_tensor(target["index"])

    return classify
