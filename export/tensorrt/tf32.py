"""What TensorFloat-32 does to a graph, made visible on a CPU.

TF32 products round their float32 factors to 11 bits of significand and accumulate in float32. The
rounding is written into the graph with Dekker's splitting: with c = (2^13 + 1) x, the difference
c - (c - x) is x rounded to 24 - 13 = 11 bits (T. J. Dekker, "A floating-point technique for
extending the available precision", 1971).
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lavit_deploy.export.graphs.precision import COMPUTE_OPS, element_types

_SPLITTER = np.float32(2**13 + 1)
_NAME = "tf32::splitter"


def as_tf32(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose float32 matrix products and convolutions round their two factors to TF32.

    Args:
        model: a graph with inferred types.
    """
    types = element_types(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:]
    copy.graph.initializer.append(numpy_helper.from_array(np.asarray(_SPLITTER), _NAME))
    for index, node in enumerate(model.graph.node):
        added = copy.graph.node.add
        rounded = onnx.NodeProto()
        rounded.CopyFrom(node)
        if node.op_type in COMPUTE_OPS:
            for position, name in enumerate(node.input[:2]):
                if types[name] == "fp32":
                    stem = f"tf32::{index}::{position}"
                    added().CopyFrom(helper.make_node("Mul", [name, _NAME], [f"{stem}::c"]))
                    added().CopyFrom(helper.make_node("Sub", [f"{stem}::c", name], [f"{stem}::d"]))
                    parts = [f"{stem}::c", f"{stem}::d"]
                    added().CopyFrom(helper.make_node("Sub", parts, [stem]))
                    rounded.input[position] = stem
        added().CopyFrom(rounded)
    return copy
