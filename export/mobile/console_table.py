"""The table that an export of mobile formats ends in."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from lavit_deploy.export.text_table import MIB, narrow_table, verdict
from lavit_deploy.manifest import Artifact
from lavit_deploy.runtimes.specs import is_for_servers

_HEADINGS = ("artifact", "holds", "MiB", "parity", "top-1", "ms", "load", "peak", "left")
_TITLE = "mobile files, batch 1 (ms: 1/2 threads; load: ms; peak: MiB)"


def is_mobile(item: Artifact) -> bool:
    """Whether an artifact is a file for phones and boards, which no server here runs."""
    return not is_for_servers(item.runtime)


def print_mobile(console: Console, artifacts: Sequence[Artifact]) -> None:
    """One row for each mobile file; nothing where there is none.

    "peak" is what opening and running the file added to its process, "left" the number of
    operators that the runtime's delegate does not run, and their share of the time where it tells.
    """
    mobile = [item for item in artifacts if is_mobile(item)]
    if not mobile:
        return
    table = narrow_table(*_HEADINGS, title=_TITLE)
    for item in mobile:
        milliseconds = "/".join(f"{timing.median_ms:.1f}" for timing in item.timings)
        measured = item.footprint
        table.add_row(
            item.name,
            item.precision_found,
            f"{item.total_bytes / MIB:.1f}",
            verdict(item),
            f"{item.parity.top1_agreement:.1%}",
            milliseconds or "-",
            f"{measured.load_seconds * 1e3:.0f}" if measured else "-",
            f"{measured.own_mib:.0f}" if measured else "-",
            _left(item),
        )
    console.print(table)


def _left(item: Artifact) -> str:
    if not item.left_operators:
        return "-"
    count = str(sum(item.left_operators.values()))
    return count if item.left_share is None else f"{count}:{item.left_share:.0%}"
