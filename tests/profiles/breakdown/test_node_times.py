import onnx
import pytest

from lavit_deploy.profiles.breakdown.node_times import (
    Node,
    artifact_split,
    inherited,
    onnx_places,
)
from lavit_deploy.profiles.counting.lavit import LAVIT_MODULES
from lavit_deploy.profiles.counting.parts import NOWHERE, Place
from lavit_deploy.profiles.subjects.names import resolve
from lavit_deploy.profiles.subjects.profiled_model import RunSettings

MLP, SCORES = Place("stage 1", "mlp"), Place("stage 1", "attention_scores_values")


@pytest.fixture(scope="module")
def artifact(tiny_bundle):
    (artifact,) = tiny_bundle.manifest.artifacts
    return artifact


def test_nodes_of_an_exported_file_belong_where_their_modules_do(tiny_bundle, artifact):
    file = tiny_bundle.path / artifact.file
    places = onnx_places(file, LAVIT_MODULES)
    nodes = onnx.load(file).graph.node
    costly = [node.name for node in nodes if node.op_type in {"MatMul", "Gemm", "Conv"}]
    assert costly
    assert not [name for name in costly if places.get(name, NOWHERE) == NOWHERE]
    assert {places[node.name].part for node in nodes if node.op_type == "Softmax"} == {
        "attention_scores_values"
    }


def test_onnxruntimes_profile_covers_the_parts_that_the_architecture_has(tiny_bundle, artifact):
    split = artifact_split(tiny_bundle, artifact, batch=2, calls=3, threads=1)
    counts = resolve(str(tiny_bundle.path), RunSettings()).measure().counts
    expected = {(stage, part) for stage, parts in counts.by_stage.items() for part in parts}
    # The classifier of the tiny model takes less than the microsecond that the profile resolves.
    assert expected - {("head", "head")} <= {(cell.stage, cell.part) for cell in split.cells}
    assert 0 <= split.unattributed_share < 1
    assert "ONNX Runtime" in split.method


def test_openvinos_profile_covers_them_too(tiny_bundle, artifact):
    # OpenVINO reads the ONNX file itself; no other artifact is needed for its node profile.
    as_openvino = artifact.model_copy(update={"runtime": "openvino"})
    split = artifact_split(tiny_bundle, as_openvino, batch=1, calls=3, threads=1)
    parts = {cell.part for cell in split.cells}
    assert {"patch_embed", "attention_projections", "attention_scores_values", "mlp"} <= parts
    assert "OpenVINO" in split.method


def test_a_runtime_without_a_node_profile_gives_none(tiny_bundle, artifact):
    other = artifact.model_copy(update={"runtime": "something-else"})
    assert artifact_split(tiny_bundle, other, batch=1, calls=1, threads=1) is None


def test_a_fused_node_takes_the_place_of_an_origin():
    nodes = [Node("a/fused", ("a/fused", "a"), ()), Node("sum", ("b",), ("a/fused",))]
    assert inherited(nodes, {"a": MLP, "b": SCORES}) == {"a/fused": MLP, "sum": SCORES}


def test_an_unknown_node_belongs_with_what_reads_it_else_with_what_it_reads():
    nodes = [
        Node("reorder", (), ()),
        Node("norm", (), ("reorder",)),
        Node("linear", ("linear",), ("norm",)),
        Node("gelu", (), ("linear",)),
    ]
    assert inherited(nodes, {"linear": MLP}) == dict.fromkeys(
        ("reorder", "norm", "linear", "gelu"), MLP
    )


def test_a_node_that_is_known_to_belong_nowhere_stays_there():
    nodes = [Node("sum", ("sum",), ()), Node("linear", ("linear",), ("sum",))]
    assert inherited(nodes, {"sum": NOWHERE, "linear": MLP})["sum"] == NOWHERE
