"""SIGINT and SIGTERM as a wish to stop that the training loop reads between two steps."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Self

SIGNAL_EXIT = 128
"""A shell reports death by signal N as this plus N: 130 for SIGINT, 143 for SIGTERM."""


class Interruption:
    """While it is entered, SIGINT and SIGTERM are noted instead of ending the process.

    Repeated signals change nothing: torchrun passes its own on when Ctrl-C has reached the
    processes already.

    Attributes:
        signal: number of the first signal that came, 0 for none.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # what signal() returned

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - signal's form
        if not self.signal:
            self.signal = number
