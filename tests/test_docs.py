"""Documentation that can go stale is held to the code."""

import importlib
import json
import re
from pathlib import Path

import pytest

from lavit_deploy.manifest import Manifest
from lavit_deploy.model.config import PRESETS
from lavit_deploy.model.counts import multiply_adds, parameter_count

ROOT = Path(__file__).parents[1]


def test_the_manifests_json_schema_is_current():
    """Renew with: python -m lavit_deploy.manifest > docs/manifest.schema.json."""
    stored = json.loads((ROOT / "docs" / "manifest.schema.json").read_text())
    assert stored == Manifest.model_json_schema()


@pytest.mark.parametrize("name", PRESETS)
def test_the_models_table_gives_the_counted_numbers(name):
    text = (ROOT / "docs" / "model.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith(f"| `{name}`"))
    parameters, operations = re.search(
        r"([\d.]+) M\**? \| ([\d.]+) G", row.replace("**", "")
    ).groups()
    config = PRESETS[name]()
    assert float(parameters) == round(sum(parameter_count(config).values()) / 1e6, 2)
    digits = len(operations.partition(".")[2])
    assert float(operations) == round(sum(multiply_adds(config).values()) / 1e9, digits)


def links(text):
    return [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]


@pytest.mark.parametrize(
    "page",
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")],
    ids=str,
)
def test_every_link_between_pages_leads_somewhere(page):
    for link in links(page.read_text()):
        assert (page.parent / link).exists(), link


COMMANDS = {
    "lavit-export": "lavit_deploy.export.cli",
    "lavit-predict": "lavit_deploy.prediction.cli",
    "lavit-profile": "lavit_deploy.profiles.cli",
    "lavit-serve": "lavit_deploy.serving.cli",
    "lavit-train": "lavit_deploy.training.cli",
}


@pytest.mark.parametrize(("command", "module"), COMMANDS.items())
def test_every_option_is_in_the_documentation_and_no_other(command, module):
    """Renew the section with: COLUMNS=100 COMMAND --help."""
    text = (ROOT / "docs" / "cli.md").read_text()
    section = text.partition(f"## {command}\n")[2].partition("\n## ")[0]
    parser = importlib.import_module(module).make_parser()
    options = {name for action in parser._actions for name in action.option_strings}
    long = {name for name in options if name.startswith("--")}
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", section)) >= long
    names = re.findall(r"^  (?:-\w, )?((?:--[a-z][\w-]*(?:, )?)+)", section, flags=re.MULTILINE)
    listed = {name for line in names for name in line.rstrip(", ").split(", ")}
    assert listed == long


def test_every_file_that_the_plugins_build_names_exists():
    text = (ROOT / "export" / "plugins" / "CMakeLists.txt").read_text()
    named = re.findall(r"\$\{LAVIT_ROOT\}/([\w./]+\.\w+)", text)
    assert named
    assert [path for path in named if not (ROOT / path).is_file()] == []
