"""What a model knows of a picture before it decides: the vector that its last layer reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.common.errors import BundleError, MissingDependencyError, UsageError
from lavit_deploy.manifest import Artifact
from lavit_deploy.preprocess import Pixels
from lavit_deploy.runtimes.base import Logits


class FeatureModel:
    """An ONNX artifact that gives logits and features, in ONNX Runtime on the CPU.

    Args:
        bundle: the bundle, opened.
        artifact: one of ONNX in it.
        threads: threads within an operator; None: all cores.

    Raises:
        BundleError: its file is missing or altered, or does not end in a linear layer.
        MissingDependencyError: onnx is not installed.
    """

    def __init__(self, bundle: Bundle, artifact: Artifact, threads: int | None = None) -> None:
        try:
            import onnx
        except ModuleNotFoundError:
            raise MissingDependencyError(
                "onnx", extra="export", purpose="read features out of a graph"
            ) from None
        from lavit_deploy.runtimes.onnxruntime import import_onnxruntime

        file = bundle.verified_file(artifact)
        graph = onnx.load(file)
        name = _head_input(graph, file)
        graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
        runtime = import_onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        self._session = runtime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._outputs = [graph.graph.output[0].name, name]
        self._input = self._session.get_inputs()[0].name

    def __call__(self, images: Pixels) -> tuple[Logits, Logits]:
        """Logits and features of some pictures.

        Args:
            images: uint8 [B, H, W, C], no more than the artifact takes.

        Returns:
            float32 [B, K] and [B, D].
        """
        logits, features = self._session.run(self._outputs, {self._input: images})
        return logits, np.asarray(features, dtype=np.float32)


def feature_artifact(bundle: Bundle, wanted: str) -> Artifact:
    """The artifact that features are read from.

    Args:
        bundle: the bundle.
        wanted: name of an artifact, or "auto": the first of ONNX that passed parity.

    Raises:
        UsageError: none is of ONNX; says which there are.
    """
    from lavit_deploy.runtimes.onnxruntime import OnnxRuntime

    of_onnx = [
        item
        for item in bundle.manifest.artifacts
        if item.runtime == OnnxRuntime.name and item.passed and wanted in {"auto", item.name}
    ]
    if not of_onnx:
        names = ", ".join(f"{item.name} ({item.runtime})" for item in bundle.manifest.artifacts)
        raise UsageError(
            f"features are read from graphs of ONNX that passed parity; {bundle.path} has {names}"
        )
    return of_onnx[0]


def _head_input(model: object, file: Path) -> str:
    """Name of what the last linear layer reads, [B, D].

    Raises:
        BundleError: the graph does not end in one.
    """
    graph = model.graph  # type: ignore[attr-defined] # onnx.ModelProto, not imported here
    producers = {name: node for node in graph.node for name in node.output}
    name = graph.output[0].name
    # A bias, a rescale or a cast may follow the product.
    while (node := producers.get(name)) is not None:
        if node.op_type in {"Gemm", "MatMul"}:
            return str(node.input[0])
        name = next((item for item in node.input if item in producers), "")
    raise BundleError(f"{file} ends in no linear layer, so it has no features to give")
