"""Packages that look installed, with entry points, to this process and its children."""

import os
import sys

import pytest


def install_package(patch, folder, name, source, points):
    """Install a module of one file from `folder`, until `patch` is undone.

    Args:
        patch: a `pytest.MonkeyPatch`.
        folder: an empty one.
        name: of the module and of its package.
        source: of the module.
        points: entry points, {"group": {"point": "object"}}.
    """
    (folder / f"{name}.py").write_text(source)
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = []
    for group, items in points.items():
        lines += [f"[{group}]", *(f"{point} = {name}:{item}" for point, item in items.items())]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
    patch.syspath_prepend(folder)
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    patch.setenv("PYTHONPATH", os.pathsep.join(paths))
    patch.delitem(sys.modules, name, raising=False)


@pytest.fixture
def install(tmp_path_factory, monkeypatch):
    """Install a module of one file: `install("name", source, {"group": {"point": "object"}})`."""

    def installed(name, source, points):
        install_package(monkeypatch, tmp_path_factory.mktemp("site"), name, source, points)

    return installed
