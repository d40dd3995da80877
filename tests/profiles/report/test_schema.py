import csv
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from lavit_deploy.profiles.report.schema import CONVENTION, Report, json_schema
from lavit_deploy.profiles.session import Session
from lavit_deploy.profiles.subjects.names import resolve
from lavit_deploy.profiles.subjects.profiled_model import RunSettings

ROOT = Path(__file__).parents[3]


def test_timings_are_in_the_units_that_they_say(unfinished_report):
    timing = unfinished_report.models[0].timings[0]
    assert timing.median_ms == pytest.approx(100)
    assert timing.images_per_second == pytest.approx(10)
    assert (timing.calls, timing.turns) == (21, 7)
    assert (timing.p95_ms, timing.p99_ms) == (pytest.approx(100), None)


def test_an_unfinished_batch_holds_what_was_measured_and_claims_no_interval(unfinished_report):
    first, second = unfinished_report.models
    assert [timing.batch for timing in first.timings] == [1, 4]
    assert first.timings[1].median_ms == pytest.approx(500)
    assert first.timings[1].images_per_second == pytest.approx(8)
    assert first.timings[1].median_low_ms is None
    assert [timing.batch for timing in second.timings] == [1]
    assert not unfinished_report.complete


def test_a_comparison_says_how_many_times_faster_the_first_is(unfinished_report):
    forth, back = unfinished_report.comparisons
    assert (forth.speedup, forth.winner) == (pytest.approx(2.0), "lavit_micro")
    assert (back.speedup, back.winner) == (pytest.approx(0.5), "lavit_micro")


def test_json_is_read_back_as_it_was(unfinished_report, tmp_path):
    unfinished_report.write_json(tmp_path / "r.json")
    text = (tmp_path / "r.json").read_text()
    assert Report.model_validate_json(text) == unfinished_report
    assert CONVENTION in text


def test_another_schema_or_an_unknown_key_is_refused(unfinished_report):
    values = unfinished_report.model_dump(mode="json")
    for change in ({"schema_version": 2}, {"surprise": 1}):
        with pytest.raises(ValidationError):
            Report.model_validate(values | change)


def test_csv_has_a_row_for_each_model_and_batch_and_the_numbers_of_the_json(
    unfinished_report, tmp_path
):
    unfinished_report.write_csv(tmp_path / "r.csv")
    with (tmp_path / "r.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], row["batch"]) for row in rows] == [
        ("lavit_micro", "1"),
        ("lavit_micro", "4"),
        ("pvt_v2_b1", "1"),
    ]
    for row in rows:
        model = next(model for model in unfinished_report.models if model.label == row["label"])
        timing = next(timing for timing in model.timings if str(timing.batch) == row["batch"])
        assert int(row["multiply_adds"]) == model.counts.total
        assert int(row["parameters"]) == model.parameters
        assert float(row["median_ms"]) == timing.median_ms
    assert rows[1]["median_low_ms"] == ""


def test_a_model_that_was_not_timed_has_a_row_too(tmp_path):
    session = Session([resolve("lavit_micro", RunSettings())], RunSettings(), plan=None)
    session.count()
    session.report(complete=True).write_csv(tmp_path / "r.csv")
    with (tmp_path / "r.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["label"], row["batch"], row["median_ms"]) == ("lavit_micro", "", "")


def test_the_committed_schema_is_the_reports():
    """Renew with: python -m lavit_deploy.profiles.report.schema > docs/profile.schema.json."""
    assert (ROOT / "docs" / "profile.schema.json").read_text() == json_schema()


def test_the_schema_names_every_field_of_the_committed_report():
    schema = json.loads(json_schema())
    stored = json.loads((ROOT / "docs" / "reports" / "cpu-stages" / "report.json").read_text())
    assert set(stored) <= set(schema["properties"])
    assert set(stored["models"][0]) <= set(schema["$defs"]["ModelReport"]["properties"])
