"""What is done so far, in a file beside the result: an interrupted run goes on where it ended.

The first line says what is being run; each further one is a picture's record, in JSON. A line that
a crash cut off is not counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self, TextIO

from lavit_deploy.common.errors import UsageError

Record = dict[str, Any]
"""Of one picture: its name, and its predictions or its error."""


class Journal(AbstractContextManager["Journal"]):
    """Records on disk, in order.

    Args:
        path: the file; it goes on where it ends if it is there.
        about: what is run: model, artifact, options. A file of something else is not gone on with.
        anew: begin again whatever is there.

    Attributes:
        done: names of the pictures that have a record.

    Raises:
        UsageError: the file is of another run; says what differs.
    """

    def __init__(self, path: Path, about: Record, *, anew: bool = False) -> None:
        self.path = path
        self.done: set[str] = set()
        if anew or not path.exists() or not self._take_up(about):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(about) + "\n", encoding="utf-8")
        self._file: TextIO = path.open("a", encoding="utf-8")

    def _take_up(self, about: Record) -> bool:
        """Read what is there; whether there is a whole first line."""
        end = 0
        with self.path.open("rb") as file:
            first = file.readline()
            if not first.endswith(b"\n"):
                return False
            found = json.loads(first)
            differing = sorted(key for key in {*about, *found} if about.get(key) != found.get(key))
            if differing:
                raise UsageError(
                    f"{self.path} is of another run: "
                    + "; ".join(
                        f"{key} was {found.get(key)}, now {about.get(key)}" for key in differing
                    )
                    + "; --force begins again"
                )
            end = file.tell()
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.done.add(json.loads(line)["picture"])
                end += len(line)
        with self.path.open("rb+") as file:
            file.truncate(end)
        return True

    def add(self, records: list[Record]) -> None:
        """Append records; they outlive this process once this returns."""
        self._file.write("".join(json.dumps(record) + "\n" for record in records))
        self._file.flush()
        self.done.update(record["picture"] for record in records)

    def records(self) -> Iterator[Record]:
        """Every record, in order."""
        with self.path.open(encoding="utf-8") as file:
            next(file)
            for line in file:
                yield json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
