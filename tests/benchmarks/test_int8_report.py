"""The report of int8: parts that are measured apart come together, and nothing stale stays."""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("int8_speed.report")


def rows(report, speed):
    made = [
        report.Row("net", "plain", 8.0, ms={"1": 2.0, "8": 2.0}, speed={"1": 1.0, "8": 1.0}),
        report.Row("net", "int8", 2.0, ms={"1": 1.0, "8": 2.0 / speed}, speed={"1": 2, "8": speed}),
    ]
    return [*made, report.Row("other", "plain", 1.0)]


def test_a_later_run_of_the_accuracy_keeps_the_times_and_their_models_place(report):
    old = rows(report, 4.0)
    new = [
        report.Row("net", "plain", 8.0, agreement=1.0),
        report.Row("net", "int8", 2.0, agreement=0.0),  # zero is a measurement
    ]
    found = report.merged(old, new)
    assert [(row.model, row.artifact) for row in found] == [
        ("net", "plain"),
        ("net", "int8"),
        ("other", "plain"),
    ]
    assert found[1].speed == {"1": 2, "8": 4.0}
    assert found[1].agreement == 0.0
    assert report.merged(found, rows(report, 3.0))[1].speed["8"] == 3.0
    assert report.merged(found, rows(report, 3.0))[1].agreement == 0.0


def test_an_artifact_that_a_model_no_longer_has_leaves_the_report(report):
    found = report.merged(rows(report, 4.0), [report.Row("net", "plain", 8.0)])
    assert [row.artifact for row in found if row.model == "net"] == ["plain"]


def test_what_was_written_is_read_back_and_what_was_not_measured_is_a_dash(report, tmp_path):
    made = rows(report, 4.0)
    report.write_report(made, tmp_path)
    assert report.read_rows(tmp_path) == made
    table = (tmp_path / "table.md").read_text()
    assert "| net | int8 | 2.0 | 25.0% | - | - | - | 1.00 | 2.00 | 0.50 | 4.00 | - |  |" in table
    assert (tmp_path / "speed.png").stat().st_size > 1000
