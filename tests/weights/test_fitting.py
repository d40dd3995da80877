"""Names fitted to a model's own: no wrapper is known by its name."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lavit_deploy.weights.fitting import NameFitter
from lavit_deploy.weights.tree import tree_of

SHAPES = {
    "stem.weight": (4, 3),
    "stages.0.norm.weight": (4,),
    "stages.0.blocks.0.attn.q.weight": (4, 4),
    "stages.0.blocks.1.attn.q.weight": (4, 4),
    "stages.1.blocks.0.attn.q.weight": (6, 6),
    "norm.weight": (6,),
    "head.weight": (2, 6),
}
MODULES = sorted({name.rsplit(".", depth)[0] for name in SHAPES for depth in range(1, 6)})


def weights(**changes):
    return {name: torch.zeros(shape) for name, shape in SHAPES.items()} | changes


def tree(content):
    return tree_of(content, Path("c.pth"))


def found(fit):
    return {name: tuple(node.tensor.shape) for name, node in fit.tensors.items()}


def wrapped(name, wrappers):
    """A name with what wrappers put behind each of the modules that it goes through."""
    parts = name.split(".")
    steps = list(wrappers.get("", ()))
    for count, part in enumerate(parts, start=1):
        steps.append(part)
        if count < len(parts):
            steps += wrappers.get(".".join(parts[:count]), ())
    return ".".join(steps)


PARTS = st.sampled_from(["module", "_orig_mod", "wrapped", "_forward_module", "0_", "net"])
WRAPPERS = st.dictionaries(
    st.sampled_from(["", *MODULES]), st.lists(PARTS, min_size=1, max_size=3), max_size=6
)


@given(WRAPPERS)
def test_whatever_wrappers_put_into_names_is_removed(wrappers):
    content = {wrapped(name, wrappers): tensor for name, tensor in weights().items()}
    (fit,) = NameFitter(SHAPES).fits(tree(content))
    assert found(fit) == SHAPES
    assert fit.score == (len(SHAPES), len(SHAPES))


@given(WRAPPERS, st.lists(st.sampled_from(["state_dict", "a.b", "model", "ema"]), max_size=3))
def test_under_whatever_keys(wrappers, keys):
    content = {wrapped(name, wrappers): tensor for name, tensor in weights().items()}
    for key in keys:
        content = {key: content, "epoch": 3, "optimizer": {"state": {0: {"exp": torch.ones(3)}}}}
    (fit,) = NameFitter(SHAPES).fits(tree(content))
    assert found(fit) == SHAPES


def test_two_sets_are_two_fits_and_never_a_mixture():
    first = {f"student.{name}": tensor for name, tensor in weights().items()}
    second = {f"teacher.{name}": tensor for name, tensor in weights().items()}
    fits = NameFitter(SHAPES).fits(tree(first | second))
    assert [fit.node.name for fit in fits] == ["student", "teacher"]
    del second["teacher.head.weight"]
    (fit,) = NameFitter(SHAPES).fits(tree(first | second))
    assert fit.node.name == "student"


def test_a_set_beside_its_average_in_one_dictionary_is_itself():
    averaged = {f"ema.{name}": tensor for name, tensor in weights().items()}
    fits = NameFitter(SHAPES).fits(tree(weights() | averaged))
    assert sorted(fit.node.name for fit in fits) == ["", "ema"]
    for fit in fits:
        own = [node for name, node in fit.tensors.items() if name in SHAPES]
        assert {node.path[0] == "ema" for node in own} == {fit.node.name == "ema"}


def test_parts_of_a_model_may_lie_behind_different_prefixes():
    content = {
        ("" if name.startswith("head") else "backbone.") + name: tensor
        for name, tensor in weights().items()
    }
    (fit,) = NameFitter(SHAPES).fits(tree(content))
    assert found(fit) == SHAPES
    assert fit.removed == {"backbone": len(SHAPES) - 1}


def test_a_missing_tensor_is_not_replaced_by_one_of_its_shape_elsewhere():
    content = weights()
    del content["norm.weight"]
    content["stages.1.norm.weight"] = torch.zeros(6)
    (fit,) = NameFitter(SHAPES).fits(tree(content))
    assert "norm.weight" not in fit.tensors
    assert found(fit)["stages.1.norm.weight"] == (6,)


def test_what_the_model_does_not_have_keeps_its_name_within_the_model():
    content = {f"net.{name}": tensor for name, tensor in weights().items()}
    content["net.stages.0.blocks.0.attn.q.lora"] = torch.zeros(1, 4)
    (fit,) = NameFitter(SHAPES).fits(tree(content))
    assert set(fit.tensors) - set(SHAPES) == {"stages.0.blocks.0.attn.q.lora"}


def test_a_stranger_of_the_models_own_name_does_not_take_its_place():
    content = {f"net.{name}": tensor for name, tensor in weights().items()}
    del content["net.norm.weight"]
    content["norm.weight"] = torch.ones(6)  # where the model has it, outside the wrapper
    content["net.norm.weight"] = torch.zeros(6)
    fits = NameFitter(SHAPES).fits(tree(content))
    for fit in fits:
        assert len(fit.tensors) >= len(SHAPES)
    inside = next(fit for fit in fits if fit.node.name == "net")
    assert float(inside.tensors["norm.weight"].tensor.sum()) == 0


def test_optimisers_that_are_keyed_by_names_are_no_weights():
    state = {name: {"exp_avg": tensor} for name, tensor in weights().items()}
    (fit,) = NameFitter(SHAPES).fits(tree({"optim": state, "model": weights()}))
    assert fit.node.name == "model"


@pytest.mark.parametrize("content", [{}, {"a": torch.zeros(1)}, {"norm": {"bias": torch.ones(6)}}])
def test_where_nothing_is_found_there_is_no_fit(content):
    assert NameFitter(SHAPES).fits(tree(content)) == []


def test_any_shape_is_taken_where_none_is_asked_for():
    content = weights(**{"head.weight": torch.zeros(7, 6)})
    (fit,) = NameFitter(dict.fromkeys(SHAPES)).fits(tree(content))
    assert fit.score == (len(SHAPES), len(SHAPES))
    (fit,) = NameFitter(SHAPES).fits(tree(content))
    assert fit.score == (len(SHAPES) - 1, len(SHAPES))
