"""Where does an ONNX graph first leave the PyTorch model? Asked after a failed parity check."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from lavit_deploy.export.graphs.onnx_graph import INPUT_NAME, SCOPES_KEY
from lavit_deploy.families.catalogue import config_of, family_of
from lavit_deploy.preprocess import Pixels, Preprocess, normalise
from lavit_deploy.runtimes.onnxruntime import import_onnxruntime

GraphRunner = Callable[[onnx.ModelProto, list[str], Pixels], list[np.ndarray]]
"""Runs a graph on uint8 pictures [B, H, W, C] and gives the outputs of these names."""

_ROOT = "model."
"""Scope of the model inside the exported wrapper."""


def layer_names(model: nn.Module) -> tuple[str, ...]:
    """The modules that are compared, in the order in which they compute."""
    config = config_of(model)
    return family_of(config).layer_names(config)


def first_divergent_layer(
    graph: onnx.ModelProto,
    model: nn.Module,
    images: Pixels,
    preprocess: Preprocess,
    *,
    tolerance: float,
    run: GraphRunner | None = None,
) -> str:
    """Name the first layer whose output is further from PyTorch's than allowed.

    Args:
        graph: the artifact's graph, from `write_onnx`.
        model: the float32 reference.
        images: a few uint8 pictures [B, H, W, C].
        preprocess: mean and std of the reference.
        tolerance: largest allowed ||difference|| / ||reference|| of a layer's output.
        run: runs a graph; default: ONNX Runtime on the CPU.

    Returns:
        The layer's name and its relative error; the worst layer where none passes the tolerance.
    """
    expected = _torch_outputs(model, images, preprocess)
    worst, worst_error = "", -1.0
    for name, found in _graph_outputs(graph, list(expected), images, run or run_onnxruntime):
        error = _relative_error(found, expected[name])
        if not error <= tolerance:  # NaN departs too
            return f"{name} (relative error {error:.2g})"
        if error > worst_error:
            worst, worst_error = name, error
    return f"no layer alone; largest at {worst} (relative error {worst_error:.2g})"


def _relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    difference = found.astype(np.float64) - expected
    return float(np.linalg.norm(difference) / max(np.linalg.norm(expected), np.finfo(float).tiny))


def _torch_outputs(
    model: nn.Module, images: Pixels, preprocess: Preprocess
) -> dict[str, np.ndarray]:
    """Output of every compared layer of the reference."""
    outputs: dict[str, np.ndarray] = {}

    def keep(name: str, output: Tensor | tuple[Tensor, Tensor]) -> None:
        tensor = output[0] if isinstance(output, tuple) else output  # a block also gives scores
        outputs[name] = tensor.double().numpy()

    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: keep(name, output)
        )
        for name in layer_names(model)
    ]
    try:
        with torch.inference_mode():
            model(torch.from_numpy(normalise(images, preprocess)))
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def _graph_outputs(
    graph: onnx.ModelProto, names: list[str], images: Pixels, run: GraphRunner
) -> Iterator[tuple[str, np.ndarray]]:
    """The same outputs of the graph, read by making each an output of a copy."""
    opened = onnx.ModelProto()
    opened.CopyFrom(graph)
    values = {name: value for name, value in _last_values(graph).items() if name in names}
    types = {value.name: value for value in graph.graph.value_info}
    present = {value.name for value in graph.graph.output}
    for value in values.values():
        if value not in present:
            opened.graph.output.append(types[value])
    ordered = [name for name in names if name in values]
    results = run(opened, [values[name] for name in ordered], images)
    yield from zip(ordered, results, strict=True)


def run_onnxruntime(graph: onnx.ModelProto, outputs: list[str], images: Pixels) -> list[np.ndarray]:
    """Run a graph on pictures in ONNX Runtime on the CPU and give some of its outputs."""
    session = import_onnxruntime().InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(outputs, {INPUT_NAME: images})


def _last_values(graph: onnx.ModelProto) -> dict[str, str]:
    """For every module scope, the value that its last node writes: the module's output."""
    values: dict[str, str] = {}
    for node in graph.graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key == SCOPES_KEY), None)
        for scope in ast.literal_eval(scopes) if scopes else ():
            values[scope.removeprefix(_ROOT)] = node.output[0]
    return values
