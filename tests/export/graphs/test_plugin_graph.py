"""ONNX graphs with plugin nodes, run on a CPU with the nodes' definition added to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from lavit_deploy.checkpoint import load_checkpoint
from lavit_deploy.common.errors import ExportError
from lavit_deploy.export.graphs.onnx_graph import write_onnx
from lavit_deploy.export.graphs.plugin_graph import (
    fold_for_plugin,
    plugin_nodes,
    with_definition,
)
from lavit_deploy.export.graphs.precision import precision_found, to_precision
from lavit_deploy.export.tensorrt.uint8_input import cast_first
from lavit_deploy.kernels.rewrite_less_attention import FusedMap, round_scores
from lavit_deploy.manifest import BatchRange

pytestmark = pytest.mark.slow

DIGITS = Path(__file__).parents[3] / "examples" / "lavit_digits.pth"
BATCH = BatchRange(minimum=1, optimum=2, maximum=4)


@pytest.fixture(scope="module")
def digits():
    return load_checkpoint(DIGITS)


@pytest.fixture(scope="module")
def folding(digits):
    return fold_for_plugin(digits, digits.build())


def write(digits, folding, folder, precision, *, half_scores=False):
    model = to_precision(folding.model, precision)
    if half_scores:
        round_scores(model, torch.float16)
    return write_onnx(digits, model, folder / "model.onnx", batch=BATCH, precision=precision)


def run(graph, images):
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"images": images})[0]


@pytest.fixture(scope="module")
def images(digits):
    size = (3, *digits.config.image_size, 3)
    return np.random.default_rng(4).integers(0, 256, size, dtype=np.uint8)


@pytest.mark.parametrize(
    ("precision", "half_scores", "tolerance"),
    [
        ("fp32", False, 1e-5),  # sums of float32 in another order
        ("fp16", False, 0.01),  # 11 bits of significand, a dozen layers
        ("fp16", True, 0.01),
    ],
)
def test_a_graph_with_plugin_nodes_classifies_as_the_checkpoint_does(
    digits, folding, images, tmp_path, precision, half_scores, tolerance
):
    graph = write(digits, folding, tmp_path, precision, half_scores=half_scores)
    model = digits.build().eval()
    with torch.inference_mode():
        wanted = model(digits_normalised(digits, images)).numpy()
    found = run(with_definition(graph), images)
    assert plugin_nodes(graph) == 4
    assert sum(isinstance(module, FusedMap) for module in folding.model.modules()) == 4
    assert precision_found(graph) == precision
    assert abs(found - wanted).max() < tolerance * abs(wanted).max()


def digits_normalised(digits, images):
    mean, std = (
        torch.tensor(item)[:, None, None]
        for item in (digits.preprocess.mean, digits.preprocess.std)
    )
    # [B, H, W, 3] -> [B, 3, H, W]
    return (torch.from_numpy(images).permute(0, 3, 1, 2) / 255.0 - mean) / std


def test_every_node_says_which_plugin_it_needs(digits, folding, tmp_path):
    graph = write(digits, folding, tmp_path, "fp32")
    nodes = [node for node in graph.graph.node if node.domain == "lavit"]
    for node in nodes:
        given = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        assert node.op_type == "LessAttention"
        assert len(node.input) == 5
        assert given.pop("with_scores") == len(node.output) - 1
        assert given == {"plugin_version": b"1", "plugin_namespace": b"lavit"}
    assert [len(node.output) for node in nodes] == [1, 2, 1, 1]


def test_an_early_cast_moves_and_computes_nothing_else(digits, folding, images, tmp_path):
    graph = write(digits, folding, tmp_path, "fp16")
    early = cast_first(graph)
    readers = [node.op_type for node in early.graph.node if "images" in node.input]
    assert readers == ["Cast"]
    assert len(early.graph.node) == len(graph.graph.node)
    onnx.checker.check_model(with_definition(early), full_check=True)
    assert np.array_equal(run(with_definition(early), images), run(with_definition(graph), images))
    assert cast_first(early) == early


def test_a_model_without_less_attention_is_refused(tiny_checkpoint, tiny_model):
    import dataclasses

    from lavit_deploy.model.lavit import LaViT

    config = dataclasses.replace(tiny_model.config, la_start=(0, 0, 0, 0))
    with pytest.raises(ExportError, match="no layer for the plugin lavit::LessAttention"):
        fold_for_plugin(tiny_checkpoint, LaViT(config).eval())
