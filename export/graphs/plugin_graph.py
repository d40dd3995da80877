"""ONNX graphs whose less-attention layers are nodes `lavit::LessAttention`, for the plugin.

TensorRT's parser gives a node to the plugin of its name and domain (`export/plugins/`). No other
runtime knows the node; `with_definition` adds what it computes in standard operators, which ONNX
Runtime inlines, so that such a graph can be run and compared without a GPU.

The kernels' module is imported where it is needed: without Triton, PyTorch warns as it is loaded.
"""

from __future__ import annotations

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from lavit_deploy.checkpoint import Checkpoint
from lavit_deploy.common.errors import ExportError
from lavit_deploy.export.graphs.lavit_only import need_lavit
from lavit_deploy.folding.fold import Folding, default_rewrites, fold
from lavit_deploy.folding.modules.model import FoldedLaViT
from lavit_deploy.folding.rewrite import Rewrite

DOMAIN = "lavit"
ONNXRUNTIME_DOMAIN = "trt.plugins"
OPERATOR = "LessAttention"
VERSION = 1
"""Of the node and of the plugin: `LessAttentionPlugin::kVERSION`."""


def node_operator(
    scores: Tensor,
    queries: Tensor,
    keys: Tensor,
    constant: Tensor,
    values: Tensor,
    *,
    with_scores: bool,
) -> tuple[Tensor, Tensor | None]:
    """A `LessAttentionOperator` that becomes a node while a graph is exported.

    Outside an export it computes, so the model can be folded, checked and compared.
    """
    if not torch.onnx.is_in_onnx_export():
        from lavit_deploy.kernels.rewrite_less_attention import torch_operator

        return torch_operator(scores, queries, keys, constant, values, with_scores=with_scores)
    # of the mixed values [B, H, N, d] and of the new scores [B, H, N, M]
    shapes = [(*scores.shape[:3], values.shape[3]), tuple(scores.shape)]
    outputs = torch.onnx.ops.symbolic_multi_out(
        f"{DOMAIN}::{OPERATOR}",
        (scores, queries, keys, constant, values),
        {
            "with_scores": int(with_scores),
            "plugin_version": str(VERSION),
            "plugin_namespace": DOMAIN,
        },
        dtypes=[values.dtype, scores.dtype][: 1 + with_scores],
        shapes=shapes[: 1 + with_scores],
        version=VERSION,
    )
    return outputs[0], outputs[1] if with_scores else None


def fold_for_plugin(checkpoint: Checkpoint, model: nn.Module) -> Folding[FoldedLaViT]:
    """Fold a model so that `lavit_deploy.export.graphs.onnx_graph.write_onnx` writes plugin nodes.

    Args:
        checkpoint: where the preprocessing comes from.
        model: the trained model; it is not changed.

    Raises:
        ExportError: the model cannot be folded, or has no less-attention layer to give a plugin.
    """
    from lavit_deploy.kernels.rewrite_less_attention import FuseLessAttention

    rewrites: tuple[Rewrite, ...] = (*default_rewrites(), FuseLessAttention(node_operator))
    lavit = need_lavit(model, "the plugin lavit::LessAttention")
    folding = fold(lavit, checkpoint.preprocess, rewrites=rewrites)
    if not folding.report.rewrites[-1].changed:
        raise ExportError(
            "no layer for the plugin lavit::LessAttention: the model has no less-attention layer, "
            "or its maps are applied to queries and keys, which is cheaper there"
        )
    return folding


def plugin_nodes(graph: onnx.ModelProto) -> int:
    """Number of nodes that need the plugin."""
    return sum(node.domain == DOMAIN and node.op_type == OPERATOR for node in graph.graph.node)


def for_onnxruntime(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose nodes are in the one domain where ONNX Runtime looks for TensorRT's plugins.

    TensorRT's parser goes by the attribute `plugin_namespace`, which stays.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    for item in (*copy.graph.node, *copy.opset_import):
        if item.domain == DOMAIN:
            item.domain = ONNXRUNTIME_DOMAIN
    return copy


def with_definition(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that any ONNX runtime can run: the nodes, and their meaning as an ONNX function.

    It computes what the plugin does: sums and softmax in float32, shares and their product with
    the values in the values' type.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    del copy.functions[:]
    kinds = set()
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.graph.value_info, *graph.graph.input, *graph.graph.output)
    }
    for node in copy.graph.node:
        if node.domain != DOMAIN or node.op_type != OPERATOR:
            continue
        if types.get(node.input[0]) is None or types.get(node.input[4]) is None:
            raise ExportError(f"{node.name}: the types of its inputs are not inferred")
        kind = (types[node.input[0]], types[node.input[4]], len(node.output))
        kinds.add(kind)
        node.op_type = _name(*kind)
        del node.attribute[:]
    opset = next(item.version for item in graph.opset_import if not item.domain)
    copy.functions.extend(_definition(*kind, opset) for kind in sorted(kinds))
    return copy


def _name(scores: int, values: int, outputs: int) -> str:
    names = TensorProto.DataType.Name
    return f"{OPERATOR}_{names(scores)}_{names(values)}_{outputs}"


def _definition(scores: int, values: int, outputs: int, opset: int) -> onnx.FunctionProto:
    wide = TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["S"], ["wide_S"], to=wide),
        helper.make_node("Cast", ["P"], ["wide_P"], to=wide),
        helper.make_node("MatMul", ["wide_P", "wide_S"], ["U"]),
        helper.make_node("Transpose", ["T"], ["T_t"], perm=[1, 0]),
        helper.make_node("MatMul", ["U", "T_t"], ["A_0"]),
        helper.make_node("Add", ["A_0", "C"], ["A"]),
        helper.make_node("Softmax", ["A"], ["wide_shares"], axis=-1),
        helper.make_node("Cast", ["wide_shares"], ["shares"], to=values),
        helper.make_node("MatMul", ["shares", "V"], ["mixed"]),
        helper.make_node("Cast", ["A"], ["new_scores"], to=scores),
    ]
    results = ["mixed", "new_scores"][:outputs]
    return helper.make_function(
        DOMAIN,
        _name(scores, values, outputs),
        ["S", "P", "T", "C", "V"],
        results,
        nodes if outputs > 1 else nodes[:-1],
        [helper.make_opsetid("", opset)],
    )
