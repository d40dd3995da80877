"""A table says the same in every format."""

import csv
import json
import math

import pyarrow.parquet as pq
import pytest

from lavit_deploy.common.errors import UsageError
from lavit_deploy.prediction.tables import write_table

BEST = {"label": "red", "index": 0, "probability": 0.75}
SECOND = {"label": "blue, dark", "index": 2, "probability": 0.25}
RECORDS = [
    {
        "picture": "a.png",
        "label": "red",
        "status": "ok",
        "predictions": [BEST, SECOND],
        "logits": [1.5, -2.0],
    },
    {"picture": "b.png", "status": "error", "error": 'damaged: "x"'},
]


def test_csv_has_a_row_for_each_picture_and_columns_for_each_class(tmp_path):
    write_table(tmp_path / "t.csv", RECORDS, top_k=2)
    with (tmp_path / "t.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first["class_2"] == "blue, dark"
    assert float(first["probability_1"]) == 0.75
    assert (second["status"], second["class_1"], second["error"]) == ("error", "", 'damaged: "x"')


def test_json_lines_are_the_records(tmp_path):
    write_table(tmp_path / "t.jsonl", RECORDS, top_k=2)
    lines = (tmp_path / "t.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == RECORDS


def test_parquet_keeps_types_and_vectors(tmp_path):
    write_table(tmp_path / "t.parquet", iter(RECORDS * 3000), top_k=2)
    table = pq.read_table(tmp_path / "t.parquet")
    assert table.num_rows == 6000
    first, second = table.slice(0, 2).to_pylist()
    assert first["predictions"] == [BEST, SECOND]
    assert first["logits"] == [1.5, -2.0]
    assert second["predictions"] is None
    assert math.isclose(table["predictions"][2].as_py()[0]["probability"], 0.75)


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"ends in \.xlsx; it may be \.csv \.jsonl \.parquet"):
        write_table(tmp_path / "t.xlsx", RECORDS, top_k=2)


def test_a_table_that_fails_half_way_leaves_the_old_one(tmp_path):
    def broken():
        yield RECORDS[0]
        raise RuntimeError("the disk")

    (tmp_path / "t.jsonl").write_text("old")
    with pytest.raises(RuntimeError):
        write_table(tmp_path / "t.jsonl", broken(), top_k=2)
    assert [path.name for path in tmp_path.iterdir()] == ["t.jsonl"]
    assert (tmp_path / "t.jsonl").read_text() == "old"
