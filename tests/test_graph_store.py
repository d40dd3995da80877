"""The store of graphs that tests share gives what the exporter gives, and never another's graph."""

import dataclasses
import shutil

import pytest
import torch

import graph_store as store
from graph_store import ask_the_exporter, graph_store, key_of  # noqa: F401 - fixtures
from lavit_deploy.export.graphs.onnx_graph import write_onnx
from lavit_deploy.folding.fold import fold
from lavit_deploy.manifest import BatchRange
from lavit_deploy.model.lavit import LaViT
from tiny_models import TINY, tiny_checkpoint, tiny_checkpoint_file, tiny_model, tiny_preprocess  # noqa: F401 - fixtures

pytestmark = pytest.mark.slow

BATCH = BatchRange(minimum=1, optimum=4, maximum=16)
EXAMPLE = (torch.zeros(2, 3, 32, 32),)
OPTIONS = {"opset_version": 22}


def test_a_graph_from_the_store_is_the_one_that_the_exporter_gives(
    ask_the_exporter, graph_store, tiny_checkpoint, tiny_model, tmp_path, monkeypatch
):
    folded = fold(tiny_model, tiny_checkpoint.preprocess).model
    for name in ("once", "again"):
        write_onnx(tiny_checkpoint, folded, tmp_path / name, batch=BATCH, precision="fp32")
    monkeypatch.setattr(torch.onnx, "export", ask_the_exporter)
    write_onnx(tiny_checkpoint, folded, tmp_path / "anew", batch=BATCH, precision="fp32")
    anew = (tmp_path / "anew").read_bytes()
    assert (tmp_path / "once").read_bytes() == anew
    assert (tmp_path / "again").read_bytes() == anew


def changed_weight(model):
    with torch.no_grad():
        model.head.weight[0, 0] += 1e-3


def changed_statistic(model):
    next(buffer for name, buffer in model.named_buffers() if "running_var" in name)[0] += 1e-3


def changed_attribute(model):
    model.norm.eps = 1e-3


def changed_class(model):
    class Other(torch.nn.LayerNorm):
        pass

    model.norm.__class__ = Other


def changed_precision(model):
    model.half()


def hooked(model):
    model.register_forward_hook(lambda *_: None)


def changed_function(model):
    model.norm.rounding = torch.library.impl


@pytest.mark.parametrize(
    "change",
    [
        changed_weight,
        changed_statistic,
        changed_attribute,
        changed_class,
        changed_precision,
        changed_function,
        hooked,
    ],
)
def test_a_change_to_the_model_is_another_graph(change):
    model, same = LaViT(TINY), LaViT(TINY)
    same.load_state_dict(model.state_dict())
    before = key_of(model, EXAMPLE, OPTIONS)
    assert key_of(same, EXAMPLE, OPTIONS) == before
    change(same)
    assert key_of(same, EXAMPLE, OPTIONS) != before


def test_a_function_is_known_by_its_name_and_one_without_a_name_is_never_found():
    model = LaViT(TINY)
    model.norm.rounding = torch.library.impl
    assert key_of(model, EXAMPLE, OPTIONS) == key_of(model, EXAMPLE, OPTIONS)
    model.norm.rounding = lambda x: x
    assert key_of(model, EXAMPLE, OPTIONS) != key_of(model, EXAMPLE, OPTIONS)


def test_what_the_exporter_is_asked_for_is_part_of_the_key():
    model = LaViT(TINY)
    dims = [torch.export.Dim("batch", min=1, max=most) for most in (4, 4, 8)]
    first, same, other = (key_of(model, EXAMPLE, {"dynamic_shapes": ({0: dim},)}) for dim in dims)
    assert first == same != other
    assert key_of(model, (torch.zeros(2, 3, 64, 32),), OPTIONS) != key_of(model, EXAMPLE, OPTIONS)
    assert key_of(LaViT(dataclasses.replace(TINY, class_token=True)), EXAMPLE, OPTIONS) != first


def test_a_change_to_a_source_is_another_graph(tmp_path, monkeypatch):
    model = LaViT(TINY)
    before = key_of(model, EXAMPLE, OPTIONS)
    for room in store.ROOMS:
        shutil.copytree(store.PACKAGE / room, tmp_path / room)
    monkeypatch.setattr(store, "PACKAGE", tmp_path)
    assert key_of(model, EXAMPLE, OPTIONS) == before
    for room in store.ROOMS:
        file = next((tmp_path / room).glob("[a-z]*.py"))
        text = file.read_text()
        file.write_text(text + "#")
        assert key_of(model, EXAMPLE, OPTIONS) != before
        file.write_text(text)
    shutil.rmtree(tmp_path / store.ROOMS[0])
    with pytest.raises(AssertionError, match="there is no room"):
        key_of(model, EXAMPLE, OPTIONS)
