"""Pictures as uint8 are cast at once, whatever else asks for their size."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser

from lavit_deploy.common.errors import ExportError
from lavit_deploy.export.tensorrt.uint8_input import cast_first

HEAD = '<ir_version: 8, opset_import: ["" : 18]> g (uint8[B, 4, 6, 3] images) => (float[A, C] y)'
PATCHES = """
    parts = Constant<value_ints=[0, 4, 18]>()
    cut = Reshape(images, parts)
    turned = Transpose<perm=[0, 2, 1]>(cut)
"""
FLAT = """
    flat = Constant<value_ints=[0, -1]>()
    y = Reshape(sum, flat)
"""
ADDED = """
    one = Constant<value_ints=[1]>()
    wide = Constant<value_ints=[18, 4]>()
    size = Concat<axis=0>(batch, wide)
    zero = Constant<value_float=1.5>()
    token = Expand(zero, size)
    sum = Add(x, token)
"""
GRAPHS = {
    "cut, then cast": f"{PATCHES} sum = Cast<to=1>(turned) {FLAT}",
    "the batch is asked of the pictures": f"""
        batch = Shape<start=0, end=1>(images)
        {PATCHES} x = Cast<to=1>(turned) {ADDED} {FLAT}""",
    "the batch is asked of the pictures afterwards": f"""
        {PATCHES} x = Cast<to=1>(turned)
        batch = Shape<start=0, end=1>(images) {ADDED} {FLAT}""",
    "the batch is asked of what was cut": f"""
        {PATCHES}
        batch = Shape<start=0, end=1>(turned) x = Cast<to=1>(turned) {ADDED} {FLAT}""",
    "the batch is asked of a part on the way": f"""
        {PATCHES} batch = Shape<start=0, end=1>(cut) x = Cast<to=1>(turned) {ADDED} {FLAT}""",
    "cast at once, beside its shape": """
        all = Shape(images)
        sum = Cast<to=1>(images)
        again = Reshape(sum, all)
        flat = Constant<value_ints=[0, -1]>()
        y = Reshape(again, flat)""",
    "cast at once": f"sum = Cast<to=1>(images) {FLAT}",
}


def graph(body):
    return onnx.shape_inference.infer_shapes(parser.parse_model(f"{HEAD} {{ {body} }}"))


def run(model, images):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"images": images})[0]


@pytest.mark.parametrize("name", GRAPHS)
def test_nothing_but_a_cast_reads_the_pictures_and_the_result_is_the_same(name):
    late = graph(GRAPHS[name])
    early = cast_first(late)
    readers = [node.op_type for node in early.graph.node if "images" in node.input]
    assert readers == ["Cast"]
    assert sum(node.op_type == "Cast" for node in early.graph.node) == 1
    onnx.checker.check_model(early, full_check=True)
    images = np.random.default_rng(1).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    assert np.array_equal(run(early, images), run(late, images))
    assert cast_first(early) == early


def test_what_computes_with_uint8_is_refused():
    body = f"x = Max(images, images) sum = Cast<to=1>(x) {FLAT}"
    with pytest.raises(ExportError, match="images is read by Max; TensorRT wants uint8"):
        cast_first(graph(body))


def test_pictures_of_floating_point_are_left_alone():
    body = f"sum = Identity(images) {FLAT}"
    model = parser.parse_model(f"{HEAD.replace('uint8', 'float')} {{ {body} }}")
    assert cast_first(model) == model
