"""Pickles: tensors are had, and nothing that they ask for is run."""

import argparse
import collections
import datetime as dt
import enum
import os
import pickle
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lavit_deploy.common.errors import CheckpointError
from lavit_deploy.weights.unpickling import StandIn, unpickle

TENSOR = torch.arange(6.0).reshape(2, 3)


class Settings:
    def __init__(self):
        self.rate = 0.1
        self.tensor = torch.ones(2)


class Slotted:
    __slots__ = ("rate",)

    def __init__(self):
        self.rate = 0.1


class AttributeDictionary(dict):
    """As of Lightning, OmegaConf and others."""

    def __init__(self, **values):
        super().__init__(**values)
        self.__dict__.update(values)


class Steps(list):
    pass


class Mode(enum.Enum):
    FAST = 1


class Calling:
    """Wants a function called when it is read."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


HARMLESS = {
    "namespace": argparse.Namespace(rate=0.1, out="x"),
    "numpy float": np.float64(3.5),
    "numpy int": np.int32(7),
    "numpy bool": np.bool_(True),
    "numpy text": np.str_("müll"),
    "numpy, big-endian": np.frombuffer(b"\0\0\1\0", ">i4")[0],
    "frozenset": frozenset({1, 2}),
}
STRANGE = {
    "object": Settings(),
    "slots": Slotted(),
    "dictionary": AttributeDictionary(rate=0.1, name="x"),
    "list": Steps([1, 2, 3]),
    "enum": Mode.FAST,
    "path": Path("/x"),
    "date": dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    "defaultdict": collections.defaultdict(list, {"a": [1]}),
    "deque": collections.deque([1, 2]),
    "array": np.arange(3),
    "objects": np.array([Settings()], dtype=object),
    "function": os.path.join,
    "calls a program": Calling(subprocess.call, ["echo", "this must never run"]),
    "calls eval": Calling(eval, "1 / 0"),
    "nested": {"a": [AttributeDictionary(x=Settings())], "b": (Mode.FAST,)},
}


@pytest.fixture
def saved(tmp_path):
    """Save content, and read it back."""

    def write(content, **options):
        path = tmp_path / "c.pth"
        torch.save(content, path, **options)
        return unpickle(path)

    return write


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
@pytest.mark.parametrize("name", STRANGE)
def test_tensors_are_had_beside_anything(saved, name, zipped, capfd):
    content = {"weight": TENSOR, "beside": STRANGE[name], "after": TENSOR + 1}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = saved(content, _use_new_zipfile_serialization=zipped)
    assert torch.equal(read.content["weight"], TENSOR)
    assert torch.equal(read.content["after"], TENSOR + 1)
    assert read.dropped
    assert capfd.readouterr().out == ""


def test_a_module_that_was_pickled_whole_keeps_its_tensors(saved):
    module = saved({"model": nn.Linear(3, 2)}).content["model"]
    assert isinstance(module, StandIn)
    assert module.state["_parameters"]["weight"].shape == (2, 3)


def test_types_of_numpy_that_are_no_numbers_are_not_made(saved):
    records = np.zeros(1, dtype=[("a", "f4"), ("b", "i4")])
    assert isinstance(saved({"weight": TENSOR, "beside": records[0]}).content["beside"], StandIn)


def test_what_was_dropped_is_named(saved):
    read = saved({"a": Settings(), "b": STRANGE["calls eval"], "c": collections.deque()})
    names = {name.rpartition(".")[2] for name in read.dropped}
    assert names == {"Settings", "eval", "deque"}
    assert "builtins.eval" in read.dropped


@pytest.mark.parametrize("name", HARMLESS)
def test_plain_values_are_what_they_are(saved, name):
    read = saved({"weight": TENSOR, "beside": HARMLESS[name]})
    assert read.content["beside"] == HARMLESS[name]
    assert read.dropped == ()


def test_a_stand_in_keeps_what_it_was_given_and_is_nothing_else(saved):
    read = saved({"settings": Settings()}).content["settings"]
    assert isinstance(read, StandIn)
    assert not isinstance(read, Settings)
    assert read.state["rate"] == 0.1
    assert torch.equal(read.state["tensor"], torch.ones(2))


def test_dictionaries_and_lists_of_other_classes_keep_their_content(saved):
    read = saved({"a": AttributeDictionary(rate=TENSOR), "b": Steps([TENSOR])}).content
    assert torch.equal(read["a"]["rate"], TENSOR)
    assert torch.equal(read["b"][0], TENSOR)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
def test_calls_of_the_system_are_refused_whatever_is_beside_them(saved, tmp_path, zipped):
    mark = tmp_path / "mark"
    with pytest.raises(CheckpointError, match=r"wants to create .*system: refused"):
        saved(
            {"weight": TENSOR, "evil": Calling(os.system, f"touch {mark}")},
            _use_new_zipfile_serialization=zipped,
        )
    assert not mark.exists()


def test_what_a_stand_in_gives_cannot_be_called(saved):
    """`getattr` is a stand-in, so what it returns is one, and no function to call."""
    chained = Calling(Calling(getattr, os, "system"), "true")
    with pytest.raises((CheckpointError, pickle.PicklingError)):
        saved({"weight": TENSOR, "evil": chained})


class Wrapped(torch.Tensor):
    pass


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ({"weight": TENSOR.as_subclass(Wrapped)}, {}, r"tensors that need .*Wrapped: save plain"),
        ({"weight": TENSOR}, {"pickle_protocol": 4}, "of another protocol than torch.save's own"),
    ],
    ids=["a class of tensors", "protocol 4"],
)
def test_what_cannot_be_had_is_said_in_one_line(saved, content, options, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        saved(content, **options)
    assert "\n" not in str(caught.value)


def test_a_torchscript_program_is_refused_as_code(tmp_path):
    path = tmp_path / "program.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is old
        torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(path))
    with pytest.raises(CheckpointError, match="is a TorchScript program, which is code"):
        unpickle(path)


def test_nothing_stays_allowed_afterwards(saved):
    before = set(torch.serialization.get_safe_globals())
    saved({"a": Settings()})
    assert set(torch.serialization.get_safe_globals()) == before
