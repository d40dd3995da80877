"""ONNX graphs into TensorRT networks, every refusal with the node it is about."""

from __future__ import annotations

from typing import Any

import onnx

from lavit_deploy.common.errors import ExportError
from lavit_deploy.runtimes.tensorrt_library import Library, Messages


def parse(
    library: Library,
    graph: onnx.ModelProto,
    network: Any,  # noqa: ANN401 # as `Library.module`
    logger: Any,  # noqa: ANN401 # as `Library.module`
    messages: Messages,
) -> None:
    """Fill a network from a graph.

    Raises:
        ExportError: the parser refused it; the message lists every error and its node.
    """
    parser = library.module.OnnxParser(network, logger)
    if parser.parse(graph.SerializeToString()):
        return
    errors = [_sentence(parser.get_error(index), graph) for index in range(parser.num_errors)]
    raise ExportError(
        f"{library.title} {library.version} cannot read the graph: "
        + ("; ".join(errors) or messages.summary())
    )


def _sentence(error: Any, graph: onnx.ModelProto) -> str:  # noqa: ANN401 # as `Library.module`
    """One parser error: which node, of which operator, writing what, and why."""
    index = error.node()
    why = " ".join(error.desc().split())
    if not 0 <= index < len(graph.graph.node):
        return why
    node = graph.graph.node[index]
    domain = f"{node.domain}::" if node.domain else ""
    return f"node {index} {node.name!r} ({domain}{node.op_type} -> {', '.join(node.output)}): {why}"
