"""ONNX to OpenVINO's own format, the IR: a graph (`.xml`) and its weights (`.bin`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from lavit_deploy.files import sha256_of
from lavit_deploy.manifest import ExtraFile, Precision
from lavit_deploy.preprocess import Pixels
from lavit_deploy.runtimes.openvino import import_openvino, precision_config


def ensure_ir(graph: Path, xml: Path) -> ExtraFile:
    """Convert an ONNX file, keeping float32 weights, unless that was done before.

    One IR serves every precision: what OpenVINO computes in is decided when it is compiled. The
    reader inside the runtime is used, because the converter beside it reports its use to its maker.

    Args:
        graph: a float32 ONNX file.
        xml: where the IR belongs; its `.bin` lies beside it.

    Returns:
        The `.bin`.
    """
    weights = xml.with_suffix(".bin")
    if not xml.exists():
        ov = import_openvino()
        ov.save_model(ov.Core().read_model(graph), xml, compress_to_fp16=False)
    return ExtraFile(
        file=weights.name, sha256=sha256_of(weights), size_bytes=weights.stat().st_size
    )


def run_openvino(
    graph: onnx.ModelProto, outputs: list[str], images: Pixels, *, precision: Precision
) -> list[np.ndarray]:
    """Run a graph on pictures in OpenVINO and give some of its outputs."""
    core = import_openvino().Core()
    compiled = core.compile_model(
        core.read_model(graph.SerializeToString()), "CPU", precision_config(precision)
    )
    results = compiled([images])
    return [results[name] for name in outputs]
