from pathlib import Path

import pytest

from lavit_deploy.profiles.render.terminal_costs import cost_tables
from lavit_deploy.profiles.report.schema import Report

REPORTS = Path(__file__).parents[3] / "docs" / "reports"


@pytest.fixture(scope="module")
def model():
    """Of the committed report: split by time, scaled, traced."""
    return Report.read(REPORTS / "cpu-stages" / "report.json").models[0]


def kinds(tables):
    return [str(table.title).partition(": ")[2].split(" (")[0] for table in tables]


def test_operators_and_modules_are_details(model):
    plain, detailed = (list(cost_tables(model, details=wanted)) for wanted in (False, True))
    assert kinds(detailed)[:2] == [
        "costs of one image by operator",
        "costs of one image by module, what is inside it included",
    ]
    assert kinds(detailed)[2:] == kinds(plain)


def test_deep_modules_are_left_to_the_json_file(model):
    modules = list(cost_tables(model, details=True))[1]
    names = list(modules.columns[0].cells)
    assert names[0] == "(all)"
    assert max(name.count(".") for name in names) == 2
    assert len(names) < len(model.modules)


def test_a_split_ends_with_what_was_not_attributed(model):
    split = next(iter(cost_tables(model, details=False)))
    assert list(split.columns[0].cells)[-1] == "(not attributed)"
    assert split.row_count == len(model.time_splits[0].cells) + 1


def test_growth_has_a_column_for_every_size(model):
    growth = list(cost_tables(model, details=False))[-1]
    assert [str(column.header) for column in growth.columns][1:-1] == [
        str(size) for size in model.growth.sizes
    ]
