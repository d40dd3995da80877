"""The rooms: drawn as the contracts have them, of a size, their tests found by path."""

import ast
import importlib.util
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
LINKED = ("export", "profiles", "serving")
MOST = 16
"""Modules in a folder, `__init__` not counted."""


def sources():
    """Every module of the package, by its path from the root of the repository."""
    for room in ("lavit_deploy", *LINKED):
        for file in sorted((ROOT / room).rglob("*.py")):
            path = file.relative_to(ROOT)
            if path.parts[1] not in LINKED and "__pycache__" not in path.parts:
                yield path


@pytest.mark.parametrize("name", ["rooms", "ways"])
def test_a_picture_is_what_its_program_draws(name):
    drawn = runpy.run_path(str(IMAGES / f"{name}.py"))["draw"]()
    assert (IMAGES / f"{name}.svg").read_text(encoding="utf-8") == drawn + "\n"


def test_every_step_of_both_ways_is_a_module():
    picture = runpy.run_path(str(IMAGES / "ways.py"))
    for module, _ in (*picture["CHECKPOINT"], *picture["REQUEST"]):
        assert importlib.util.find_spec(module) is not None, module


def test_no_folder_is_crowded():
    counts = {}
    for path in sources():
        if path.name != "__init__.py":
            counts[path.parent] = counts.get(path.parent, 0) + 1
    assert {folder: count for folder, count in counts.items() if count > MOST} == {}


def test_every_room_says_in_one_sentence_what_it_holds():
    for path in sources():
        if path.name == "__init__.py":
            said = (ast.get_docstring(ast.parse((ROOT / path).read_text())) or "").split("\n")[0]
            assert said.endswith("."), f"{path} begins with {said!r}"


def test_the_test_of_a_module_is_found_by_its_path():
    missing = []
    for path in sources():
        inside = path.relative_to("lavit_deploy") if path.parts[0] == "lavit_deploy" else path
        test = ROOT / "tests" / inside.with_name(f"test_{path.name}")
        if path.name not in {"__init__.py", "__main__.py"} and not test.is_file():
            missing.append(str(path))
    assert missing == []
