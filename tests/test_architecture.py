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

OF_SEVERAL_MODULES = {
    "benchmarks/test_gpu_programs.py",
    "benchmarks/test_int8_report.py",
    "benchmarks/test_load.py",
    "export/test_configurations.py",  # of every step from a configuration to a graph
    "export/mobile/test_cli.py",  # lavit-export where a format's tools fail
    "export/mobile/test_shipped_checkpoint.py",
    "export/mobile/test_silent_faults.py",
    "export/plugins/test_plugin.py",  # C++
    "export/quantization/test_int8_targets.py",
    "export/quantization/test_search.py",
    "export/targets/test_tensorrt_rtx.py",  # the real library
    "folding/test_contracts.py",  # of every rewrite
    "folding/test_export.py",
    "folding/test_identities.py",  # of every rewrite, in float64
    "kernels/test_compilation.py",
    "kernels/test_without_triton.py",
    "serving/deploy/test_deployment_files.py",
    "serving/deploy/test_nginx.py",
    "serving/deploy/test_observability_files.py",
    "test_architecture.py",
    "test_commands.py",
    "test_docs.py",
    "test_graph_store.py",
    "test_mean_colour.py",
    "test_packaging.py",
    "test_public_names.py",
    "test_raw_client.py",
    "training/test_examples.py",
    "benchmarks/test_imports.py",
    "test_docs_links.py",
}
"""Tests of what lies in several modules, or in none of Python's."""


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
            assert said.endswith((".", "?")), f"{path} begins with {said!r}"


def own_test(path):
    """Where the test of a module lies."""
    inside = path.relative_to("lavit_deploy") if path.parts[0] == "lavit_deploy" else path
    return inside.with_name(f"test_{path.name}")


def test_the_test_of_a_module_is_found_by_its_path_or_the_module_is_listed():
    """The list gets shorter: who tests a listed module by itself takes it out."""
    listed = set((ROOT / "tests" / "tested_through_others.txt").read_text().split())
    without = {
        str(path)
        for path in sources()
        if path.name not in {"__init__.py", "__main__.py"}
        and not (ROOT / "tests" / own_test(path)).is_file()
    }
    assert without == listed


def test_a_test_is_of_a_module_or_of_something_that_is_said_here():
    modules = {str(own_test(path)) for path in sources()}
    tests = {str(file.relative_to(ROOT / "tests")) for file in (ROOT / "tests").rglob("test_*.py")}
    assert tests - modules == OF_SEVERAL_MODULES
