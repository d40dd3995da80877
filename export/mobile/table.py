"""The table that an export of mobile formats ends in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from rich.console import Console
from rich.table import Table

from lavit_deploy.manifest import Artifact, MobileRuntime

_MIB = 2**20
_HEADINGS = ("holds", "MiB", "parity", "top-1", "ms 1/2 thr.", "load ms", "peak MiB", "left")


def print_mobile(console: Console, artifacts: Sequence[Artifact]) -> None:
    """One row for each mobile file; nothing where there is none.

    "peak" is what opening and running the file added to its process, "left" the number of
    operators that are neither delegated nor quantized.
    """
    mobile = [item for item in artifacts if item.runtime in get_args(MobileRuntime)]
    if not mobile:
        return
    table = Table(title="mobile files, batch 1")
    table.add_column("artifact", no_wrap=True)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right")
    for item in mobile:
        milliseconds = " / ".join(f"{timing.median_ms:.1f}" for timing in item.timings)
        measured = item.footprint
        table.add_row(
            item.name,
            item.precision_found,
            f"{item.total_bytes / _MIB:.1f}",
            "[green]passed[/green]" if item.passed else "[red]FAILED[/red]",
            f"{item.parity.top1_agreement:.1%}",
            milliseconds or "-",
            f"{measured.load_seconds * 1e3:.0f}" if measured else "-",
            f"{measured.own_mib:.0f}" if measured else "-",
            str(sum(item.left_operators.values())) if item.left_operators else "-",
        )
    console.print(table)
