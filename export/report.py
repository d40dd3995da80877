"""What `lavit-export` shows: the plan, the progress, the result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from export.mobile.table import is_mobile, print_mobile
from export.pipeline import TRITON, Job, export_bundle, step_names
from export.triton_server.repository import FOLDER, model_name, obstacles
from export.verdict import verdict
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
    count = len(manifest.artifacts)
    console.print(f"[bold]{manifest.name}: {count} artifacts in {seconds:.0f} s[/bold]")
    _print_servers(console, [item for item in manifest.artifacts if not is_mobile(item)])
    print_mobile(console, manifest.artifacts)
    environment = manifest.environment
    for first in manifest.artifacts[:1]:
        console.print(
            f"parity on {first.parity.images} pictures ({first.parity.source}); latency on "
            f"{environment.cpu}, {environment.cores} cores: medians of a call @batch, artifacts in "
            "turn",
            highlight=False,
        )
    if job.folding is not None:
        console.print(f"folded: {_change(job.folding)}", highlight=False, soft_wrap=True)
    for item in manifest.artifacts:
        if item.parity.method != "run":
            console.print(f"{item.name} was not run; its parity: {item.parity.method}")
        if item.failure is not None:
            console.print(
                f"[red]{item.name} failed parity[/red] ({item.failure.method}): "
                f"{item.failure.reason}. First departure: {item.failure.first_departure or 'none'}",
                highlight=False,
            )
    for name, reason in manifest.not_built.items():
        console.print(f"[red]{name} was not built[/red]: {escape(reason)}", highlight=False)
    if manifest.int8 is not None:
        console.print(escape(manifest.int8), highlight=False, soft_wrap=True)
    if job.plan.triton_repository and TRITON not in manifest.not_built:
        _print_triton(console, bundle)
    if not all(is_mobile(item) for item in manifest.artifacts):
        console.print(f"next: [bold]lavit-serve {bundle.path}[/bold]", highlight=False)


def _print_servers(console: Console, artifacts: Sequence[Artifact]) -> None:
    """One row for each artifact that a server can run; nothing where there is none."""
    if not artifacts:
        return
    batches = [timing.batch for timing in artifacts[0].timings]
    table = Table()
    table.add_column("artifact", no_wrap=True)
    for heading in ("MiB", "type", "parity", "top-1", "max diff"):
        table.add_column(heading, justify="right")
    for size in batches:
        table.add_column(f"ms @{size}", justify="right")
    for item in artifacts:
        strictest = item.rounded_parity or item.parity
        milliseconds = {timing.batch: f"{timing.median_ms:.1f}" for timing in item.timings}
        table.add_row(
            item.name,
            f"{item.total_bytes / _MIB:.1f}",
            item.precision_found,
            verdict(item),
            f"{strictest.top1_agreement:.1%}",
            f"{strictest.max_difference:.2g}",
            *(milliseconds.get(size, "-") for size in batches),
        )
    console.print(table)


def _print_triton(console: Console, bundle: Bundle) -> None:
    """Which artifacts are models of the Triton repository, and why the others are not."""
    manifest = bundle.manifest
    hindered = obstacles(manifest)
    names = [model_name(manifest, item) for item in manifest.artifacts if not hindered[item.name]]
    line = f"Triton: [bold]{bundle.path / FOLDER}[/bold] holds {', '.join(names)}"
    console.print(line, highlight=False, soft_wrap=True)
    for name, why_not in hindered.items():
        if why_not:
            console.print(f"  without {name}: {escape(why_not)}", highlight=False, soft_wrap=True)
