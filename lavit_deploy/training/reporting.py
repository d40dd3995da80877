"""What a training reports: a row per epoch, in metrics.csv, TensorBoard and on the terminal."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from torch.utils.tensorboard import SummaryWriter

from lavit_deploy.common.atomic_files import write_text


@dataclass(frozen=True, kw_only=True)
class EpochRow:
    """One epoch.

    Attributes:
        epoch: 1-based.
        steps: optimiser steps since the training began.
        learning_rate: of the epoch's last step.
        loss: mean training loss, DP loss included with its weight.
        classification_loss: mean cross-entropy.
        dp_loss: mean DP loss before its weight.
        accuracy: top-1 share on the held-out pictures.
        ema_accuracy: the same, with the averaged weights.
        best: which weights were written to best.pth, "" for none.
        seconds: training and validation; an interruption between is not counted.
        images_per_second: of training alone.
        commonest_answer: share of the held-out pictures that have the model's most frequent answer.
        signs: what speaks for a training that has failed, "" for nothing; `; ` between several.
    """

    epoch: int
    steps: int
    learning_rate: float
    loss: float
    classification_loss: float
    dp_loss: float
    accuracy: float
    ema_accuracy: float
    best: str
    seconds: float
    images_per_second: float
    commonest_answer: float = 0.0
    signs: str = ""


def write_csv(path: Path, rows: list[EpochRow]) -> None:
    """Write all rows, atomically: what a resumed training repeats is not there twice."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, [field.name for field in dataclasses.fields(EpochRow)], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in rows)
    write_text(path, text.getvalue())


class EventWriter:
    """TensorBoard's events of one training.

    Args:
        folder: where they are written.
        after: epochs whose events are kept; later ones, of a run that was interrupted before it
            saved them, are hidden.
    """

    def __init__(self, folder: Path, after: int) -> None:
        self._writer = SummaryWriter(folder, purge_step=after + 1 if after else None)

    def add(self, row: EpochRow) -> None:
        """Add one epoch."""
        for name, value in dataclasses.asdict(row).items():
            if isinstance(value, float):
                self._writer.add_scalar(name, value, row.epoch)
        self._writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


class ProgressBar:
    """Progress for a person: a bar on a terminal, a line per epoch anywhere.

    Args:
        epochs: of the whole training.
        quiet: print nothing (all processes but the first).
    """

    def __init__(self, epochs: int, *, quiet: bool) -> None:
        self.console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self._epochs = epochs
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def begin(self, what: str, epoch: int, done: int, total: int) -> None:
        """Start the bar of one epoch's training or validation."""
        self._bar.reset(
            self._task,
            total=total,
            completed=done,
            description=f"epoch {epoch + 1}/{self._epochs} {what}",
        )

    def advance(self) -> None:
        """One batch is done."""
        self._bar.advance(self._task)

    def say(self, line: str) -> None:
        """Print one line above the bar."""
        self.console.print(line, markup=False)

    def warn(self, line: str) -> None:
        """Print one line above the bar that should not be overlooked."""
        self.console.print(f"warning: {line}", markup=False, style="bold yellow")

    def row(self, row: EpochRow) -> None:
        """Print one epoch."""
        width = math.floor(math.log10(self._epochs)) + 1
        self.say(
            f"epoch {row.epoch:{width}}/{self._epochs}  loss {row.loss:.4f}  "
            f"dp {row.dp_loss:+.3f}  lr {row.learning_rate:.2e}  held-out {row.accuracy:.2%}  "
            f"ema {row.ema_accuracy:.2%}  {row.images_per_second:.0f} img/s"
            + (f"  best.pth <- {row.best}" if row.best else "")
        )
