"""What `lavit-export` shows: the plan, the progress, the result."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from export.mobile.table import print_mobile
from export.pipeline import Job, export_bundle, step_names
from lavit_deploy.bundle import Bundle
from lavit_deploy.folding.fold import Folding
from lavit_deploy.manifest import Artifact

_MIB = 2**20


def print_plan(console: Console, job: Job, out: Path) -> None:
    """Say what will be built and what is left out, and why."""
    checkpoint, config = job.checkpoint, job.checkpoint.config
    console.print(
        f"[bold]{checkpoint.file.name}[/bold]: {checkpoint.architecture}, "
        f"{config.image_size[0]} x {config.image_size[1]}, {config.num_classes} classes"
        f" ({checkpoint.weights}) -> [bold]{out}[/bold]",
        highlight=False,
    )
    for sentence in checkpoint.inferred:
        console.print(f"  [yellow]assumed[/yellow] {escape(sentence)}", highlight=False)
    for step in job.plan.steps:
        colour = "dim" if step.action == "skip" else "green"
        line = f"  [{colour}]{step.action:<5}[/{colour}] {step.what:<13} {escape(step.why)}"
        console.print(line, highlight=False, soft_wrap=True)
    if job.folding is None:
        sentence = "--no-fold: the graph keeps the operators of the paper"
        console.print(f"  [dim]skip [/dim] folding    {sentence}", highlight=False)
    else:
        console.print(
            f"  [green]fold [/green] {'model':<13} exactly: {_change(job.folding)}",
            highlight=False,
            soft_wrap=True,
        )
    for skipped in job.pictures.skipped:
        console.print(f"  [yellow]unreadable[/yellow] {escape(skipped)}", highlight=False)


def export_with_progress(console: Console, job: Job, out: Path, *, force: bool) -> Bundle:
    """Run the export under a progress bar; without a terminal, one line for each step."""
    names = step_names(job.plan)
    if not console.is_terminal:
        return export_bundle(
            job, out, force=force, progress=lambda name: _print_step(console, name)
        )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=len(names))
        # A step is complete when the next one begins.
        bundle = export_bundle(
            job,
            out,
            force=force,
            progress=lambda name: bar.update(
                task, description=name, completed=names.index(_step_of(name))
            ),
        )
        bar.update(task, completed=len(names))
    return bundle


def _step_of(name: str) -> str:
    """The step that a report is about; what follows ": " says how far within it."""
    return name.partition(": ")[0]


def _print_step(console: Console, name: str) -> None:
    if name == _step_of(name):
        console.print(f"  ... {name}")


def _verdict(item: Artifact) -> str:
    """What the comparison says; what was not run itself is not said to have passed."""
    if not item.passed:
        return "[red]FAILED[/red]"
    return "[green]passed[/green]" if item.parity.method == "run" else "[yellow]not run[/yellow]"


def _change(folding: Folding) -> str:
    """What folding saved, in words."""
    before, after = folding.report.before, folding.report.after
    return (
        f"{before.operators} -> {after.operators} operators, "
        f"{before.multiply_adds / 1e9:.3f} -> {after.multiply_adds / 1e9:.3f} G multiply-adds, "
        f"{before.weights / 1e6:.2f} -> {after.weights / 1e6:.2f} M weights"
    )


def print_result(console: Console, job: Job, bundle: Bundle, seconds: float) -> None:
    """One row for each artifact, and what to do next."""
    manifest = bundle.manifest
    first = manifest.artifacts[0].parity
    batches = [timing.batch for timing in manifest.artifacts[0].timings]
    table = Table(title=f"{manifest.name}: {len(manifest.artifacts)} artifacts in {seconds:.0f} s")
    table.add_column("artifact", no_wrap=True)
    for heading in ("MiB", "type", "parity", "top-1", "max diff"):
        table.add_column(heading, justify="right")
    for size in batches:
        table.add_column(f"ms @{size}", justify="right")
    for item in manifest.artifacts:
        strictest = item.rounded_parity or item.parity
        milliseconds = {timing.batch: f"{timing.median_ms:.1f}" for timing in item.timings}
        table.add_row(
            item.name,
            f"{item.total_bytes / _MIB:.1f}",
            item.precision_found,
            _verdict(item),
            f"{strictest.top1_agreement:.1%}",
            f"{strictest.max_difference:.2g}",
            *(milliseconds.get(size, "-") for size in batches),
        )
    console.print(table)
    print_mobile(console, manifest.artifacts)
    environment = manifest.environment
    console.print(
        f"parity on {first.images} pictures ({first.source}); latency on {environment.cpu}, "
        f"{environment.cores} cores: medians of a call @batch, artifacts in turn",
        highlight=False,
    )
    if job.folding is not None:
        console.print(f"folded: {_change(job.folding)}", highlight=False, soft_wrap=True)
    for item in manifest.artifacts:
        if item.parity.method != "run":
            console.print(
                f"{item.name} cannot run on {item.device}; its parity: {item.parity.method}",
                highlight=False,
            )
        if item.failure is not None:
            console.print(
                f"[red]{item.name} failed parity[/red] ({item.failure.method}): "
                f"{item.failure.reason}. First departure: {item.failure.first_departure or 'none'}",
                highlight=False,
            )
    console.print(f"next: [bold]lavit-serve {bundle.path}[/bold]", highlight=False)
