"""LiteRT (TensorFlow Lite): `.tflite` files with labels and preprocessing in their metadata."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Classify = Callable[[np.ndarray], np.ndarray]

_INT8_OPERATORS = ("FULLY_CONNECTED", "CONV_2D")
"""Products with constants. Products of activations stay float: in int8 they broke the model."""

_LABELS = "labels.txt"
_AXIS_LABELS = 2  # AssociatedFileType.TENSOR_AXIS_LABELS of the metadata schema


def imports() -> None:
    """Load the packages that `load` needs."""
    import ai_edge_litert.interpreter  # noqa: F401 - loaded for its cost alone


def convert(
    program: Path, out: Path, precision: str, calibration: np.ndarray | None, about: dict[str, Any]
) -> dict[str, Any]:
    """Write one `.tflite`.

    Args:
        program: a saved `torch.export` program that takes uint8 [1, H, W, 3].
        out: the file to write.
        precision: "fp32", "fp16" (weights) or "int8" (static, weights per channel).
        calibration: uint8 [B, H, W, 3], for int8.
        about: labels and preprocessing, as in the sidecar.

    Returns:
        The versions and, for int8, the operators that compute in float, with their number.
    """
    import litert_torch
    import torch

    loaded = torch.export.load(program)
    plain = out if precision == "fp32" else out.with_suffix(".float.tflite")
    litert_torch.convert(loaded.module(), loaded.example_inputs[0]).export(str(plain))
    if precision != "fp32":
        _quantize(plain, out, precision, calibration)
        plain.unlink()
    out.write_bytes(_with_metadata(out.read_bytes(), about))
    return {
        "version": version("ai-edge-litert"),
        "format": "TFLite 3",
        "left": _float_operators(out) if precision == "int8" else {},
    }


def _quantize(plain: Path, out: Path, precision: str, calibration: np.ndarray | None) -> None:
    from ai_edge_quantizer import qtyping, quantizer
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    made = quantizer.Quantizer(str(plain))
    for name in _INT8_OPERATORS:
        operator = qtyping.TFLOperationName(name)
        if precision == "int8":
            made.add_static_config(".*", operator, activation_num_bits=8, weight_num_bits=8)
        else:
            made.add_weight_only_config(
                ".*", operator, num_bits=16, algorithm_key=AlgorithmName.FLOAT_CASTING
            )
    ranges = None
    if precision == "int8":
        if calibration is None:
            raise ValueError("int8 needs calibration pictures")
        ((key, signature),) = _signatures(plain).items()
        (name,) = signature["inputs"]
        ranges = made.calibrate({key: [{name: picture[None]} for picture in calibration]})
    out.write_bytes(bytes(made.quantize(ranges).quantized_model))


def _signatures(file: Path) -> dict[str, Any]:
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(str(file)).get_signature_list()


def _float_operators(file: Path) -> dict[str, int]:
    """Operators of a quantized file whose result is float, by name."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    reader = Interpreter(
        str(file),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    types = {item["index"]: item["dtype"] for item in reader.get_tensor_details()}
    return dict(
        Counter(
            operator["op_name"]
            for operator in reader._get_ops_details()  # noqa: SLF001 - there is no public one
            if any(types.get(index) is np.float32 for index in operator["outputs"])
        )
    )


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
    """A function of uint8 [1, H, W, 3] that gives logits [1, K]."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file), num_threads=len(os.sched_getaffinity(0)))
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()

    def classify(image: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(source["index"], image)
        interpreter.invoke()
        return interpreter.get_tensor(target["index"])

    return classify
