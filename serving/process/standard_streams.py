"""Standard input, output and error, where whoever starts the service has closed them."""

from __future__ import annotations

import os


def keep_standard_streams() -> None:
    """Open those of the numbers 0, 1 and 2 that are closed, to nowhere.

    Otherwise the next sockets would have these numbers: everybody who writes to standard error
    would write to a client, and libuv ends the process when it closes one of them.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the smallest number that is free: this one
