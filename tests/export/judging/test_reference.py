import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lavit_deploy.export.graphs.onnx_graph import write_onnx
from lavit_deploy.export.judging.divergence import first_divergent_layer, layer_names
from lavit_deploy.export.judging.reference import reference_logits, run_artifact
from lavit_deploy.manifest import BatchRange
from lavit_deploy.runtimes.base import Runtime, TensorSpec

pytestmark = pytest.mark.slow

BATCH = BatchRange(minimum=1, optimum=4, maximum=16)


class Recording(Runtime):
    """Gives each picture's first pixel as its logit, and notes batch sizes."""

    name, device, max_batch, input = "recording", "cpu", 8, TensorSpec("uint8", (None, 1, 1, 3))

    def __init__(self):
        self.sizes = []

    def _infer(self, images):
        self.sizes.append(len(images))
        return images[:, 0, 0, :1].astype(np.float32)

    def close(self):
        pass


def test_parity_runs_every_batch_size_and_keeps_the_order():
    images = np.arange(20, dtype=np.uint8).repeat(3).reshape(20, 1, 1, 3)
    runtime = Recording()
    logits = run_artifact(runtime, images, (1, 8, 3))
    assert logits[:, 0].tolist() == list(range(20))
    assert runtime.sizes == [1, 8, 3, 1, 7]


@pytest.fixture(scope="module")
def graph(tiny_checkpoint, tiny_model, tmp_path_factory):
    file = tmp_path_factory.mktemp("departure") / "m.onnx"
    return write_onnx(tiny_checkpoint, tiny_model, file, batch=BATCH, precision="fp32")


def damage(graph, name):
    """A copy of the graph with one weight tensor tripled."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    (initializer,) = [item for item in copy.graph.initializer if item.name == name]
    values = 3.0 * numpy_helper.to_array(initializer)
    initializer.CopyFrom(numpy_helper.from_array(values, name))
    return copy


@pytest.mark.parametrize(
    ("weight", "layer"),
    [
        ("model.stages.0.patch_embed.proj.bias", "stages.0.patch_embed"),
        ("model.stages.2.blocks.1.mlp.fc2.bias", "stages.2.blocks.1"),
        ("model.stages.3.blocks.2.attn.proj.bias", "stages.3.blocks.2"),
        ("model.norm.bias", "norm"),
        ("model.head.bias", "head"),
    ],
)
def test_the_first_layer_that_departs_is_named(
    graph, tiny_model, tiny_preprocess, pictures, weight, layer
):
    damaged = damage(graph, weight)
    found = first_divergent_layer(
        damaged, tiny_model, pictures[:3], tiny_preprocess, tolerance=1e-3
    )
    assert found.startswith(f"{layer} (relative error")


def test_a_sound_graph_has_no_departure(graph, tiny_model, tiny_preprocess, pictures):
    found = first_divergent_layer(graph, tiny_model, pictures[:3], tiny_preprocess, tolerance=1e-3)
    assert found.startswith("no layer alone")


def test_every_layer_is_compared(tiny_model):
    assert len(layer_names(tiny_model)) == 4 + 7 + 2


def test_the_reference_is_the_float32_model_on_normalised_pictures(
    tiny_model, tiny_preprocess, pictures
):
    one = reference_logits(tiny_model, pictures[:1], tiny_preprocess)
    many = reference_logits(tiny_model, pictures.repeat(3, axis=0), tiny_preprocess)
    assert many.shape == (36, 5)
    np.testing.assert_allclose(many[0], one[0], atol=1e-5, rtol=0)
