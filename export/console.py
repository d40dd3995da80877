"""What `lavit-export` shows: the plan, the progress, the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import nn

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.export.request import TRITON
from lavit_deploy.export.triton_server.repository import FOLDER, model_name, obstacles
from lavit_deploy.folding.fold import Folding
from lavit_deploy.manifest import Artifact, Manifest
from lavit_deploy.runtimes.specs import is_for_servers

if TYPE_CHECKING:
    from lavit_deploy.export.pipeline import ExportJob

_MIB = 2**20
_MOBILE_HEADINGS = ("artifact", "holds", "MiB", "parity", "top-1", "ms", "load", "peak", "left")
_MOBILE_TITLE = "mobile files, batch 1 (ms: 1/2 threads; load: ms; peak: MiB)"


def print_plan(console: Console, job: ExportJob, out: Path) -> None:
    """Say what will be built and what is left out, and why."""
    checkpoint, config = job.checkpoint, job.checkpoint.config
    _say(
        console,
        f"[bold]{escape(checkpoint.file.name)}[/bold]: {checkpoint.architecture}, "
        f"{config.image_size[0]} x {config.image_size[1]}, {config.num_classes} classes"
        f" ({checkpoint.weights or 'a bare state_dict'}) -> [bold]{escape(str(out))}[/bold]",
    )
    for sentence in checkpoint.notes:
        _say(console, f"  [green]read[/green]    {escape(sentence)}")
    for sentence in checkpoint.inferred:
        _say(console, f"  [yellow]assumed[/yellow] {escape(sentence)}")
    for step in job.plan.steps:
        _say_step(console, step.action, step.what, step.why)
    if not job.fold:
        _say_step(console, "skip", "folding", "--no-fold keeps the operators of the paper")
    elif job.folding is None:
        _say_step(console, "skip", "folding", f"none is known for {checkpoint.family.name}")
    else:
        _say_step(console, "fold", "model", f"exactly: {_change(job.folding)}")
    for skipped in job.pictures.skipped:
        _say(console, f"  [yellow]unreadable[/yellow] {escape(skipped)}")


def _say(console: Console, line: str) -> None:
    """Print a line without breaks of its own: the terminal wraps it, and a copy has none."""
    console.print(line, highlight=False, soft_wrap=True)


def _say_step(console: Console, action: str, what: str, why: str) -> None:
    colour = "dim" if action == "skip" else "green"
    _say(console, f"  [{colour}]{action:<5}[/{colour}] {what:<13} {escape(why)}")


@contextmanager
def progress_bar(console: Console, names: Sequence[str]) -> Iterator[Callable[[str], None]]:
    """A bar over steps of these names; without a terminal, one line for each step.

    Yields:
        What is to be told the name of each step as it begins.
    """
    if not console.is_terminal:
        yield lambda name: _print_step(console, name)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=len(names))
        # A step is complete when the next one begins.
        yield lambda name: bar.update(task, description=name, completed=names.index(_step_of(name)))
        bar.update(task, completed=len(names))


def _step_of(name: str) -> str:
    """The step that a report is about; what follows ": " says how far within it."""
    return name.partition(": ")[0]


def _print_step(console: Console, name: str) -> None:
    if name == _step_of(name):
        console.print(f"  ... {name}")


def _change(folding: Folding[nn.Module]) -> str:
    """What folding saved, in words."""
    before, after = folding.report.before, folding.report.after
    return (
        f"{before.operators} -> {after.operators} operators, "
        f"{before.multiply_adds / 1e9:.3f} -> {after.multiply_adds / 1e9:.3f} G multiply-adds, "
        f"{before.weights / 1e6:.2f} -> {after.weights / 1e6:.2f} M weights"
    )


def print_result(console: Console, job: ExportJob, bundle: Bundle, seconds: float) -> None:
    """One row for each artifact, and what to do next."""
    manifest = bundle.manifest
    count = len(manifest.artifacts)
    _say(console, f"[bold]{escape(manifest.name)}: {count} artifacts in {seconds:.0f} s[/bold]")
    _print_servers(console, [item for item in manifest.artifacts if not _is_mobile(item)])
    _print_mobile(console, manifest.artifacts)
    environment = manifest.environment
    for first in manifest.artifacts[:1]:
        _say(
            console,
            f"parity on {first.parity.images} pictures ({escape(first.parity.source)}); latency on "
            f"{environment.cpu}, {environment.cores} cores: medians of a call @batch, artifacts in "
            "turn",
        )
    if job.folding is not None:
        _say(console, f"folded: {_change(job.folding)}")
    for item in manifest.artifacts:
        _print_doubts(console, item)
    for name, reason in manifest.not_built.items():
        _say(console, f"[red]{name} was not built[/red]: {escape(reason)}")
    if manifest.int8 is not None:
        _say(console, escape(manifest.int8))
    _print_confidence(console, manifest)
    if job.plan.triton_repository and TRITON not in manifest.not_built:
        _print_triton(console, bundle)
    if any(item.passed and not _is_mobile(item) for item in manifest.artifacts):
        _say(console, f"next: [bold]lavit-serve {escape(str(bundle.path))}[/bold]")


def _print_confidence(console: Console, manifest: Manifest) -> None:
    """What was fitted on held-out pictures with labels; nothing where none were given."""
    if manifest.no_confidence:
        _say(
            console,
            f"[yellow]no confidence was fitted[/yellow]: {escape(manifest.no_confidence)}; "
            "probabilities are the plain softmax",
        )
    if (fitted := manifest.confidence) is None:
        return
    _say(
        console,
        f"confidence: temperature {fitted.temperature:.3g} on {fitted.pictures:,} pictures "
        f"({escape(fitted.source)}); calibration error {fitted.error_before:.2%} -> "
        f"{fitted.error:.2%}",
    )
    if fitted.unknown_below is not None:
        _say(
            console,
            f"unknown: pictures whose logits have a log-sum-exp below {fitted.unknown_below:.4g}, "
            f"{fitted.max_refused:.1%} of those",
        )


def _print_doubts(console: Console, item: Artifact) -> None:
    """What keeps an artifact from being trusted; nothing where it ran and passed."""
    if item.parity.method != "run":
        _say(console, f"{item.name} was not run; its parity: {item.parity.method}")
    if (failure := item.failure) is not None:
        layer = (
            f". First layer that differs: {failure.first_divergent_layer}"
            if failure.first_divergent_layer
            else ""
        )
        _say(
            console,
            f"[red]{item.name} failed parity[/red] ({failure.method}): "
            f"{escape(failure.reason)}{layer}",
        )


def _print_servers(console: Console, artifacts: Sequence[Artifact]) -> None:
    """One row for each artifact that a server can run; nothing where there is none."""
    if not artifacts:
        return
    batches = [timing.batch for timing in artifacts[0].timings]
    headings = ("artifact", "MiB", "type", "parity", "top-1", "max diff")
    table = _narrow_table(*headings, *(f"ms @{size}" for size in batches))
    for item in artifacts:
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


def _is_mobile(item: Artifact) -> bool:
    """Whether an artifact is a file for phones and boards, which no server here runs."""
    return not is_for_servers(item.runtime)


def _print_mobile(console: Console, artifacts: Sequence[Artifact]) -> None:
    """One row for each mobile file; nothing where there is none.

    "peak" is what opening and running the file added to its process, "left" the number of
    operators that the runtime's delegate does not run, and their share of the time where it tells.
    """
    mobile = [item for item in artifacts if _is_mobile(item)]
    if not mobile:
        return
    table = _narrow_table(*_MOBILE_HEADINGS, title=_MOBILE_TITLE)
    for item in mobile:
        milliseconds = "/".join(f"{timing.median_ms:.1f}" for timing in item.timings)
        measured = item.footprint
        table.add_row(
            item.name,
            item.precision_found,
            f"{item.total_bytes / _MIB:.1f}",
            _verdict(item),
            f"{item.parity.top1_agreement:.1%}",
            milliseconds or "-",
            f"{measured.load_seconds * 1e3:.0f}" if measured else "-",
            f"{measured.own_mib:.0f}" if measured else "-",
            _undelegated(item),
        )
    console.print(table)


def _undelegated(item: Artifact) -> str:
    if not item.undelegated_operators:
        return "-"
    count = str(sum(item.undelegated_operators.values()))
    return count if item.undelegated_share is None else f"{count}:{item.undelegated_share:.0%}"


def _narrow_table(*headings: str, title: str | None = None) -> Table:
    """A table of text and then numbers, without rules: a log has 80 columns, and nothing is cut."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left", no_wrap=True)
    return table


def _verdict(item: Artifact) -> str:
    """What the comparison says; what was not run itself is not said to have passed."""
    if not item.passed:
        return "[red]FAILED[/red]"
    return "[green]passed[/green]" if item.parity.method == "run" else "[yellow]not run[/yellow]"


def _print_triton(console: Console, bundle: Bundle) -> None:
    """Which artifacts are models of the Triton repository, and why the others are not."""
    manifest = bundle.manifest
    hindered = obstacles(manifest)
    names = [model_name(manifest, item) for item in manifest.artifacts if not hindered[item.name]]
    place = escape(str(bundle.path / FOLDER))
    _say(console, f"Triton: [bold]{place}[/bold] holds {', '.join(names)}")
    for item in manifest.artifacts:
        if (why_not := hindered[item.name]) and not _is_mobile(item):
            _say(console, f"  without {item.name}: {escape(why_not)}")
