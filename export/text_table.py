"""What the tables of an export have in common."""

from __future__ import annotations

from rich.table import Table

from lavit_deploy.manifest import Artifact

MIB = 2**20


def narrow_table(*headings: str, title: str | None = None) -> Table:
    """A table of text and then numbers, without rules: a log has 80 columns, and nothing is cut."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left", no_wrap=True)
    return table


def verdict(item: Artifact) -> str:
    """What the comparison says; what was not run itself is not said to have passed."""
    if not item.passed:
        return "[red]FAILED[/red]"
    return "[green]passed[/green]" if item.parity.method == "run" else "[yellow]not run[/yellow]"
