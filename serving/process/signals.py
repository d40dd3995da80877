"""Signals that come to a worker before it can answer them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_LATER = frozenset({signal.SIGINT} | ({signal.SIGHUP} if hasattr(signal, "SIGHUP") else set()))
"""Signals that a worker takes when it can answer them; until then they would just end it."""


@contextmanager
def held_signals() -> Iterator[None]:
    """Keep those signals waiting, also in processes that are started meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _LATER)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def take_signals() -> None:
    """Let the signals come that waited while this worker started."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _LATER)
