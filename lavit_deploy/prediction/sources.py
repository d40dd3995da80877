"""Which pictures to predict: a folder, a glob, a list or a Parquet table, in a fixed order.

A picture's name is unique within a source, and the same in every run: what was interrupted goes
on by the names that are done.
"""

from __future__ import annotations

import csv
import glob
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lavit_deploy.common.errors import DatasetError, MissingDependencyError
from lavit_deploy.datasets import SUFFIXES

_PATH_COLUMNS = ("path", "file", "filename", "file_name", "picture", "image")
"""Of a list: what the column of paths may be called; `image` as well holds bytes in Parquet."""

_BYTES_COLUMNS = ("image", "bytes", "content", "data", "picture", "img")
"""Of a Parquet table: what the column of pictures may be called."""

_LABEL_COLUMNS = ("label", "labels", "class", "target")

_ROWS = 256
"""Rows of a Parquet table that are in memory at a time."""


@dataclass(frozen=True)
class Item:
    """One picture that is not read yet.

    Attributes:
        name: unique within its source.
        content: the file, or its bytes.
        label: its class's name, or its number in the model's order; None where it has none.
    """

    name: str
    content: Path | bytes
    label: str | int | None = None


class Source(ABC):
    """Pictures in a fixed order.

    Attributes:
        labelled: whether its pictures have labels.
    """

    labelled: bool

    @abstractmethod
    def __len__(self) -> int:
        """How many pictures there are."""

    @abstractmethod
    def __iter__(self) -> Iterator[Item]:
        """The pictures, one after the other."""


class FileSource(Source):
    """Files by their paths.

    Args:
        items: in order.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self.labelled = any(item.label is not None for item in items)

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)


class ParquetSource(Source):
    """A Parquet table with a column of pictures, as bytes, as Hugging Face's images, or as paths.

    Args:
        path: the file.

    Raises:
        DatasetError: it is no Parquet file, or has no such column; says which columns it has.
        MissingDependencyError: pyarrow is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ModuleNotFoundError:
            raise MissingDependencyError(
                "pyarrow", extra="predict", purpose="read Parquet tables"
            ) from None
        try:
            self._file = pq.ParquetFile(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise DatasetError(f"{path} cannot be read as Parquet: {error}") from None
        self._path = path
        names = self._file.schema_arrow.names
        self._pictures = _column(names, (*_BYTES_COLUMNS, *_PATH_COLUMNS))
        if self._pictures is None:
            raise DatasetError(
                f"{path} has no column of pictures: it has {', '.join(names)}; expected one of "
                f"{', '.join(dict.fromkeys((*_BYTES_COLUMNS, *_PATH_COLUMNS)))}"
            )
        self._label = _column(names, _LABEL_COLUMNS)
        self.labelled = self._label is not None

    def __len__(self) -> int:
        rows: int = self._file.metadata.num_rows
        return rows

    def __iter__(self) -> Iterator[Item]:
        wanted = [name for name in (self._pictures, self._label) if name is not None]
        row = 0
        for batch in self._file.iter_batches(_ROWS, columns=wanted):
            columns = {name: batch.column(name).to_pylist() for name in wanted}
            labels = columns.get(self._label or "", [None] * batch.num_rows)
            for value, label in zip(columns[self._pictures or ""], labels, strict=True):
                yield Item(f"{self._path.name}#{row}", self._content(value), label)
                row += 1

    def _content(self, value: object) -> Path | bytes:
        """A cell: bytes, a path, or Hugging Face's `{"bytes": ..., "path": ...}`."""
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, str):
            return self._path.parent / value
        return value if isinstance(value, bytes) else b""  # an empty cell is an empty file


def open_source(given: str, *, labelled: bool = False) -> Source:
    """The pictures that a command line names.

    Args:
        given: a folder, with or without one folder per class; a glob such as "in/*.jpg"; a list,
            .txt with one path in a line or .csv with a column of paths and perhaps one of labels; a
            .parquet file; or one picture. Paths in a list count from the list's folder.
        labelled: take the names of a folder's folders as labels.

    Raises:
        DatasetError: there is no such thing, or it holds no pictures.
        MissingDependencyError: pyarrow is not installed.
    """
    path = Path(given)
    if path.is_dir():
        return _folder(path, labelled=labelled)
    if not path.is_file():
        if glob.has_magic(given):
            return _matches(given, labelled=labelled)
        raise DatasetError(
            f"no pictures at {given}; expected a folder, a file, a glob, a list (.txt, .csv) or a "
            "table (.parquet)"
        )
    kind = path.suffix.lower()
    if kind == ".parquet":
        source: Source = ParquetSource(path)
    elif kind == ".csv":
        source = _csv(path)
    elif kind == ".txt":
        source = _lines(path)
    else:
        return FileSource([Item(path.name, path)])
    if len(source) == 0:
        raise DatasetError(f"{given} names no pictures")
    return source


def _folder(root: Path, *, labelled: bool) -> Source:
    files = sorted(
        path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()
    )
    if not files:
        raise DatasetError(f"{root} has no pictures; expected files named {', '.join(SUFFIXES)}")
    parts = [path.relative_to(root) for path in files]
    stray = [part for part in parts if len(part.parts) == 1]
    if labelled and stray:
        raise DatasetError(
            f"{stray[0]} lies in no folder of {root}, so it has no label; expected "
            "CLASS/picture.jpg"
        )
    return FileSource(
        [
            Item(part.as_posix(), file, part.parts[0] if labelled else None)
            for file, part in zip(files, parts, strict=True)
        ]
    )


def _matches(pattern: str, *, labelled: bool) -> Source:
    """Files of a glob; the folder that one lies in is its label."""
    # Path.glob takes patterns from one folder alone, and none that begin with a slash.
    files = sorted(Path(name) for name in glob.glob(pattern, recursive=True))  # noqa: PTH207
    files = [file for file in files if file.is_file()]
    if not files:
        raise DatasetError(f"no file matches {pattern}")
    return FileSource(
        [Item(file.as_posix(), file, file.parent.name if labelled else None) for file in files]
    )


def _lines(path: Path) -> Source:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read as UTF-8 text: {error}") from None
    names = [line.strip() for line in lines if line.strip()]
    _check_unique(names, path)
    return FileSource([Item(name, path.parent / name) for name in names])


def _csv(path: Path) -> Source:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or ())
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read as CSV: {error}") from None
    picture, label = _column(columns, _PATH_COLUMNS), _column(columns, _LABEL_COLUMNS)
    if picture is None:
        raise DatasetError(
            f"{path} has no column of paths: its first line is {', '.join(columns) or 'empty'}; "
            f"expected one of {', '.join(_PATH_COLUMNS)}"
        )
    empty = [number for number, row in enumerate(rows, start=2) if not row[picture]]
    if empty:
        raise DatasetError(f"{path}, line {empty[0]}: no path in the column {picture}")
    names = [row[picture] for row in rows]
    _check_unique(names, path)
    return FileSource(
        [
            Item(row[picture], path.parent / row[picture], row[label] if label else None)
            for row in rows
        ]
    )


def _check_unique(names: Sequence[str], path: Path) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DatasetError(f"{path} names {name} twice")
        seen.add(name)


def _column(names: Sequence[str], known: Sequence[str]) -> str | None:
    """The first column that has a known name, whatever its capitals."""
    by_lower = {name.lower(): name for name in reversed(names)}
    return next((by_lower[name] for name in known if name in by_lower), None)
