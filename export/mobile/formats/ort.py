"""ONNX Runtime Mobile: `.ort`, a graph that was optimised ahead for one kind of processor."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from lavit_deploy.export.mobile.formats import Classify
from lavit_deploy.export.mobile.formats.format import Format, MobileVariant

FORMAT = Format(
    name="ort",
    source="onnx",
    variants=(
        MobileVariant("ort-fp32-arm", "fp32.arm.ort", "fp32", "for phones with ARM processors"),
        MobileVariant("ort-fp32-amd64", "fp32.amd64.ort", "fp32", "for small x86-64 machines"),
    ),
    modules=("onnxruntime",),
    requirement='"lavit-deploy[serve]"',
)


def imports() -> None:
    """Load the packages that `load` needs."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime  # noqa: F401 - loaded for its cost alone


def convert(
    program: Path,
    out: Path,
    _precision: str,
    _about: dict[str, Any],
) -> dict[str, Any]:
    """Write one `.ort`.

    Args:
        program: an ONNX file whose metadata hold labels and preprocessing, and with a batch that
            is fixed here at one.
        out: the file to write; "arm" in its name optimises for ARM, else for x86-64.
        _precision: that of the graph.
        _about: already in the graph's metadata.

    Returns:
        The version.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime as ort

    arm = ".arm." in out.name
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(out)
    options.add_free_dimension_override_by_name("batch", 1)
    options.add_session_config_entry("session.save_model_format", "ORT")
    # As ONNX Runtime's own converter does: an int8 graph keeps QDQ's integer kernels on ARM, and
    # the layout with blocked channels exists on x86-64 alone.
    options.add_session_config_entry("session.qdqisint8allowed", str(int(arm)))
    ort.InferenceSession(
        str(program),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["NchwcTransformer"] if arm else [],
    )
    return {"version": ort.__version__, "format": "ORT", "undelegated": {}}


def precision_found(file: Path) -> str:
    """The type of most bytes of weights; ONNX Runtime writes the file as ONNX for that."""
    import onnx
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as scratch:
        back = Path(scratch) / "back.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(back)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.save_model_format", "ONNX")
        ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        weights = [onnx.numpy_helper.to_array(item) for item in onnx.load(back).graph.initializer]
    sizes: Counter[str] = Counter()
    for weight in weights:
        sizes[str(weight.dtype)] += weight.nbytes
    found = sizes.most_common(1)[0][0]
    return {"float32": "fp32", "float16": "fp16"}.get(found, found)


def load(file: Path) -> Classify:
    """A function of uint8 [1, H, W, C] that gives logits [1, K]."""
    imports()
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.log_severity_level = 3
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: session.run(None, {name: image})[0]
