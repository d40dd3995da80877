"""Progress on standard error: a bar on a terminal, a line for every step elsewhere."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar


class Progress(AbstractContextManager["Progress"]):
    """Says what is being done and how far it is; a context manager."""

    def __init__(self) -> None:
        console = Console(stderr=True, highlight=False)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            # Drawn on request only: a thread that redraws while models are timed takes their time.
            auto_refresh=False,
        )
        self._task = self._bar.add_task("", total=1.0)
        self._step = ""

    def update(self, what: str, share: float) -> None:
        """Show `what` and the share that is done, 0 to 1."""
        self._bar.update(self._task, description=escape(what), completed=share, refresh=True)
        if what != self._step and self._bar.disable:
            print(what, file=sys.stderr, flush=True)
        self._step = what

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
