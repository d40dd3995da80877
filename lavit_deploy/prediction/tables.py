"""The result as CSV, JSON lines or Parquet, written from a journal record by record."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from lavit_deploy.common.atomic_files import atomic_path
from lavit_deploy.common.errors import MissingDependencyError, UsageError
from lavit_deploy.prediction.journal import Record

_ROWS = 4096
"""Rows of a Parquet row group."""


def write_table(path: Path, records: Iterable[Record], *, top_k: int) -> None:
    """Write every record, atomically.

    Args:
        path: .csv, .jsonl or .parquet.
        records: in order.
        top_k: classes of a record at most, which CSV has columns for.

    Raises:
        UsageError: another ending.
        MissingDependencyError: pyarrow is not installed.
    """
    writer = writer_of(path)
    with atomic_path(path) as temporary:
        writer(temporary, records, top_k)


def writer_of(path: Path) -> Callable[[Path, Iterable[Record], int], None]:
    """What writes a file of this name.

    Raises:
        UsageError: nothing does; names the endings there are.
        MissingDependencyError: pyarrow is not installed.
    """
    kind = path.suffix.lower()
    if kind not in _WRITERS:
        raise UsageError(
            f"--out {path} ends in {kind or 'nothing'}; it may be {' '.join(_WRITERS)}"
        )
    if kind == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401 - asked for before hours of work
        except ModuleNotFoundError:
            raise MissingDependencyError(
                "pyarrow", extra="predict", purpose="write Parquet tables"
            ) from None
    return _WRITERS[kind]


def _write_csv(path: Path, records: Iterable[Record], top_k: int) -> None:
    """One row for each picture; vectors are left out, which CSV has no type for."""
    ranks = range(1, top_k + 1)
    classes = [name for rank in ranks for name in (f"class_{rank}", f"probability_{rank}")]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["picture", "status", "label", *classes, "unknown", "error"])
        for record in records:
            cells = [
                cell
                for item in record.get("predictions", ())
                for cell in (item["label"], item["probability"])
            ]
            cells += [""] * (len(classes) - len(cells))
            writer.writerow(
                [
                    *(record["picture"], record["status"], record.get("label", "")),
                    *cells,
                    record.get("unknown", ""),
                    record.get("error", ""),
                ]
            )


def _write_json_lines(path: Path, records: Iterable[Record], top_k: int) -> None:
    del top_k
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def _write_parquet(path: Path, records: Iterable[Record], top_k: int) -> None:
    del top_k
    import pyarrow as pa
    import pyarrow.parquet as pq

    prediction = pa.struct(
        [("label", pa.string()), ("index", pa.int32()), ("probability", pa.float64())]
    )
    schema = pa.schema(
        [
            ("picture", pa.string()),
            ("status", pa.string()),
            ("label", pa.string()),
            ("predictions", pa.list_(prediction)),
            ("unknown", pa.bool_()),
            ("logits", pa.list_(pa.float32())),
            ("features", pa.list_(pa.float32())),
            ("error", pa.string()),
        ]
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for rows in _groups(records):
            writer.write_table(pa.Table.from_pylist(rows, schema))


def _groups(records: Iterable[Record]) -> Iterator[list[Record]]:
    iterator = iter(records)
    while rows := list(islice(iterator, _ROWS)):
        yield rows


_WRITERS: dict[str, Callable[[Path, Iterable[Record], int], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_json_lines,
    ".parquet": _write_parquet,
}
