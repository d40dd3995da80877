"""What tables say of a comparison."""

from __future__ import annotations

from lavit_deploy.manifest import Artifact


def verdict(item: Artifact) -> str:
    """What the comparison says; what was not run itself is not said to have passed."""
    if not item.passed:
        return "[red]FAILED[/red]"
    return "[green]passed[/green]" if item.parity.method == "run" else "[yellow]not run[/yellow]"
