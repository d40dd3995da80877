"""Parity of an engine that cannot be run here: that of the graph it was built from."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import onnx.inliner

from lavit_deploy.export.graphs.plugin_graph import plugin_nodes, with_definition
from lavit_deploy.export.judging.context import BuildContext
from lavit_deploy.export.judging.half_precision import widen
from lavit_deploy.export.judging.reference import run_artifact
from lavit_deploy.export.tensorrt.tf32 import as_tf32
from lavit_deploy.manifest import Parity, Precision
from lavit_deploy.runtimes.onnxruntime import OnnxRuntime


def graph_parity(context: BuildContext, graph: onnx.ModelProto, precision: Precision) -> Parity:
    """Run the graph as the engine's precision computes it, on the CPU.

    Args:
        context: what is compared with.
        graph: the graph that the engine was built from, with inferred types.
        precision: of the engine.
    """
    stand_in, how = _computing_like(_without_plugin(graph), precision)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "stand_in.onnx"
        onnx.save(stand_in, file)
        with OnnxRuntime(file, max_batch=context.batch.maximum) as runtime:
            logits = run_artifact(runtime, context.pictures.images, context.sizes)
    method = f"not run: the graph it was built from, {how}"
    return context.verdict(logits, precision, stand_in, method=method)


def _computing_like(graph: onnx.ModelProto, precision: Precision) -> tuple[onnx.ModelProto, str]:
    if precision == "fp32":
        return graph, "run in onnxruntime on a CPU"
    if precision == "tf32":
        return as_tf32(graph), "its factors rounded to TF32, run in onnxruntime on a CPU"
    return widen(
        graph, precision
    ), f"computed in float32 on a CPU, every result rounded to {precision}"


def _without_plugin(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with the plugin's nodes replaced by what they compute."""
    if not plugin_nodes(graph):
        return graph
    inlined = onnx.inliner.inline_local_functions(with_definition(graph))
    return onnx.shape_inference.infer_shapes(inlined, data_prop=True)
