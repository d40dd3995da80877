"""Graphs that PyTorch's exporter made, kept: it takes 6 s for one, however small the model.

What decides a graph is its key: every number and attribute of the module, the sources of the rooms
that it is built from, what the exporter is asked for, and the versions of the exporter's packages.
A change to any of them asks the exporter again; everything that this project does with a graph
runs as it is.
"""

import hashlib
import inspect
import os
import platform
import re
import time
from importlib.metadata import version
from pathlib import Path
from types import FunctionType, SimpleNamespace

import onnx
import pytest
import torch
from filelock import FileLock

PACKAGE = Path(__file__).parents[2] / "lavit_deploy"
ROOMS = ("model", "folding", "kernels", "export/graphs")
"""Rooms whose sources decide what a graph is."""

WEEK = 7 * 24 * 3600.0
HIDDEN = re.compile(r" at 0x[0-9a-f]+|tensor\(|Parameter containing|array\(")
"""In the text of an object that does not show all of it."""


@pytest.fixture(scope="session")
def ask_the_exporter():
    """`torch.onnx.export` itself, for a test that must have a graph made anew."""
    found = torch.onnx.export
    # Every folder that imports these fixtures has its own of them.
    return found.exporter if isinstance(found, _Kept) else found


@pytest.fixture(scope="session", autouse=True)
def graph_store(ask_the_exporter, request, tmp_path_factory):
    """Let `torch.onnx.export` be asked once for a graph: by all tests, processes and runs.

    Returns:
        The folder of the graphs.
    """
    cache = getattr(request.config, "cache", None)  # None under -p no:cacheprovider
    folder = cache.mkdir("graphs") if cache else tmp_path_factory.mktemp("graphs")
    _forget(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", _Kept(ask_the_exporter, folder))
        yield folder


def _forget(folder):
    """Remove what no run has used for a week."""
    for file in folder.iterdir():
        try:
            if file.stat().st_mtime < time.time() - WEEK:
                file.unlink()
        except FileNotFoundError:
            pass  # another worker was faster


class _Kept:
    """Stands in for the exporter: looks for the graph before it asks."""

    def __init__(self, exporter, folder):
        self.exporter = exporter
        self._folder = folder

    def __call__(self, module, arguments, **options):
        key = key_of(module, arguments, options)
        file = self._folder / f"{key}.onnx"
        with FileLock(file.with_suffix(".lock")):
            if file.exists():
                os.utime(file)
            else:
                program = self.exporter(module, arguments, **options)
                unfinished = file.with_suffix(".part")
                onnx.save(program.model_proto, unfinished)
                unfinished.replace(file)
        return SimpleNamespace(model_proto=onnx.load(file))


def key_of(module, arguments, options):
    """What decides the graph of a module, as one number."""
    digest = hashlib.sha256(_surroundings().encode())
    sources = set()
    for name, part in module.named_modules():
        kind = type(part)
        digest.update(
            f"{name} {kind.__module__}.{kind.__qualname__} {_attributes(part)}\n".encode()
        )
        if not kind.__module__.startswith("torch."):
            sources.add(Path(inspect.getfile(kind)))
    for source in sorted(sources):
        digest.update(source.read_bytes())
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{name} {_described(tensor)}\n".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    digest.update(f"{[_described(argument) for argument in arguments]}\n".encode())
    digest.update(f"{sorted((name, _shown(value)) for name, value in options.items())}".encode())
    return digest.hexdigest()


def _surroundings():
    """The sources of the rooms and the versions of what exports."""
    digest = hashlib.sha256()
    for room in ROOMS:
        sources = sorted((PACKAGE / room).rglob("*.py"))
        assert sources, f"there is no room {room}: graphs of other sources would be taken for its"
        for source in sources:
            digest.update(source.read_bytes())
    packages = [f"{name} {version(name)}" for name in ("torch", "onnx", "onnxscript")]
    return f"{digest.hexdigest()} {packages} {platform.python_version()}"


def _attributes(part):
    """Everything that a module holds but parameters, buffers and parts, which are read by name."""
    named = {"_parameters", "_buffers", "_modules"}
    return sorted((name, _shown(value)) for name, value in vars(part).items() if name not in named)


def _shown(value):
    """A value as text; what text does not show whole gets one that is never found again."""
    if isinstance(value, FunctionType) and "<" not in value.__qualname__:
        source = Path(inspect.getfile(value)).read_bytes()
        return f"{value.__module__}.{value.__qualname__} {hashlib.sha256(source).hexdigest()}"
    text = repr(value)
    return f"{text} {os.urandom(8).hex()}" if HIDDEN.search(text) else text


def _described(tensor):
    return f"{tensor.dtype} {tuple(tensor.shape)} {tensor.stride()}"
