"""A fixture: packages that look installed, with entry points, to this process and its children."""

import os
import sys

import pytest


@pytest.fixture
def install(tmp_path_factory, monkeypatch):
    """Install a module of one file: `install("name", source, {"group": {"point": "object"}})`."""

    def installed(name, source, points):
        folder = tmp_path_factory.mktemp("site")
        (folder / f"{name}.py").write_text(source)
        about = folder / f"{name}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = []
        for group, items in points.items():
            lines += [f"[{group}]", *(f"{point} = {name}:{item}" for point, item in items.items())]
        (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
        monkeypatch.syspath_prepend(folder)
        paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
        monkeypatch.delitem(sys.modules, name, raising=False)

    return installed
