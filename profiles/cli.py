"""`lavit-profile`: parameters, multiply-adds, latency and throughput of models."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lavit_deploy import cli
from lavit_deploy.environment import available_cores
from lavit_deploy.errors import InferenceError, UsageError
from lavit_deploy.files import write_text
from profiles import markdown, plot
from profiles.baselines import BASELINES
from profiles.subjects import Settings, profile_extra, resolve
from profiles.timing import TimingPlan

if TYPE_CHECKING:
    from profiles.report import Report
    from profiles.session import Session

_EXAMPLES = """\
  lavit-profile lavit_s pvt_small swin_tiny
  lavit-profile lavit_s pvt_v2_b2 --batch 1 8 32 --compare lavit_s pvt_v2_b2 --json report.json
  lavit-profile lavit_t lavit_s lavit_b --no-timing --stages --strict
  lavit-profile lavit_s.pth my.bundle my.bundle:onnx-fp16 --threads 1

models:
  presets      lavit_micro lavit_t lavit_s lavit_b (random weights)
  baselines    {baselines} (random weights)
  checkpoints  .pth .pt .ckpt .bin .safetensors
  bundles      FOLDER (the fastest artifact that passed parity), or FOLDER:ARTIFACT"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    made = cli.parser(
        "lavit-profile",
        'Parameters, multiply-adds ("FLOPs"), latency and throughput of LaViT and its baselines.',
        _EXAMPLES.format(baselines=" ".join(BASELINES)),
    )
    made.add_argument("models", nargs="+", metavar="MODEL", help="what to profile; see below")
    _add_model_options(made)
    _add_timing_options(made)
    _add_output_options(made)
    return made


def _add_model_options(made: argparse.ArgumentParser) -> None:
    group = made.add_argument_group("how models are run")
    group.add_argument(
        "--runtime",
        choices=("torch", "torch-compile"),
        default="torch",
        help="runtime of PyTorch models; a bundle's artifact has its own",
    )
    group.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute")
    group.add_argument(
        "--precision",
        choices=("fp32", "bf16", "fp16"),
        default="fp32",
        help="of PyTorch models; below fp32 they run under autocast",
    )
    group.add_argument(
        "--attention",
        choices=("sdpa", "eager"),
        default="sdpa",
        help="attention of the baselines: fused, or writing its scores; LaViT needs its scores",
    )
    group.add_argument(
        "--image-size",
        type=_positive_int,
        metavar="PIXELS",
        help="side of the input of presets and baselines instead of their own",
    )
    group.add_argument(
        "--threads",
        type=_positive_int,
        default=available_cores(),
        metavar="N",
        help="threads within an operator on the CPU",
    )


def _add_timing_options(made: argparse.ArgumentParser) -> None:
    plan = TimingPlan()
    group = made.add_argument_group("timing")
    group.add_argument(
        "--batch",
        type=_positive_int,
        nargs="+",
        default=list(plan.batches),
        metavar="N",
        help="images per call",
    )
    group.add_argument(
        "--runs",
        type=_positive_int,
        default=plan.calls,
        metavar="N",
        help="timed calls of each model and batch, rounded up to turns of three; 99th "
        "percentiles need 100",
    )
    group.add_argument(
        "--seconds",
        type=_positive_float,
        default=plan.seconds,
        metavar="S",
        help="stop a batch size early after S seconds per model, but not before six turns",
    )
    group.add_argument(
        "--warmup",
        type=_positive_int,
        default=plan.warmup,
        metavar="N",
        help="fewest untimed calls first; they go on until two windows of four agree within 5 %%",
    )
    group.add_argument(
        "--warmup-seconds",
        type=_positive_float,
        default=plan.warmup_seconds,
        metavar="S",
        help="time a model that has not settled after S seconds all the same, and say so",
    )
    group.add_argument(
        "--compare",
        nargs=2,
        action="append",
        default=[],
        metavar=("A", "B"),
        help="how many times faster A is than B, with its interval; can be repeated",
    )
    group.add_argument("--no-timing", action="store_true", help="count only")


def _add_output_options(made: argparse.ArgumentParser) -> None:
    group = made.add_argument_group("output")
    group.add_argument("--json", type=Path, metavar="FILE", help="write everything that was found")
    group.add_argument("--csv", type=Path, metavar="FILE", help="write a row per model and batch")
    group.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as a page")
    group.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw throughput against multiply-adds"
    )
    group.add_argument("--stages", action="store_true", help="split multiply-adds by stage as well")
    group.add_argument(
        "--strict",
        action="store_true",
        help="fail when an operator that may hold multiply-adds was not counted, or when the "
        "traced count is not the closed form's",
    )


def _positive_int(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def _positive_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Profile the models that the command line names.

    Returns:
        The exit code: 130 if interrupted, after what was measured has been written.

    Raises:
        LavitError: as its class says.
    """
    options = make_parser().parse_args(arguments)
    _check(options)
    session = _session(options)
    with profile_extra("show progress"):
        from profiles.progress import Progress
    try:
        with Progress() as progress:
            session.count(strict=options.strict, notify=progress.update)
            session.time(progress.update)
    except KeyboardInterrupt:
        _deliver(session.report(complete=False), options)
        print("interrupted: the report holds what was measured until then", file=sys.stderr)
        return cli.INTERRUPTED
    except InferenceError:
        _deliver(session.report(complete=False), options)
        raise
    _deliver(session.report(complete=True), options)
    return 0


def _check(options: argparse.Namespace) -> None:
    """Find contradictions before anything is built.

    Raises:
        UsageError: says which.
    """
    twice = sorted({name for name in options.models if options.models.count(name) > 1})
    if twice:
        raise UsageError(f"{', '.join(twice)} given twice: every model is timed in each round")
    for name in (name for pair in options.compare for name in pair):
        if name not in options.models:
            raise UsageError(
                f"--compare {name}: not among the models given ({', '.join(options.models)})"
            )
    if options.no_timing and (options.compare or options.plot):
        raise UsageError("--compare and --plot need timings; leave --no-timing out")
    if options.plot:
        plot.check(options.plot)
    for path in _files(options):
        if path.is_dir():
            raise UsageError(f"{path} is a folder; a file is needed")


def _session(options: argparse.Namespace) -> Session:
    with profile_extra("profile models"):
        from profiles.runners import check_device
        from profiles.session import Session
    check_device(options.device)
    settings = Settings(
        device=options.device,
        threads=options.threads,
        precision=options.precision,
        runtime=options.runtime,
        attention=options.attention,
        image_size=options.image_size,
    )
    plan = TimingPlan(
        batches=tuple(dict.fromkeys(options.batch)),
        calls=options.runs,
        seconds=options.seconds,
        warmup=options.warmup,
        warmup_seconds=options.warmup_seconds,
    )
    return Session(
        subjects=[resolve(name, settings) for name in options.models],
        settings=settings,
        plan=None if options.no_timing else plan,
        comparisons=[(first, second) for first, second in options.compare],
    )


def _deliver(report: Report, options: argparse.Namespace) -> None:
    """Print the tables, then write the files."""
    from profiles import tables

    # First to the terminal: a file that cannot be written must not cost the measurements.
    tables.show(tables.console(), report, stages=options.stages)
    try:
        _write(report, options)
    except OSError as error:
        raise UsageError(f"cannot write {error.filename}: {error.strerror}") from None


def _write(report: Report, options: argparse.Namespace) -> None:
    if options.json:
        report.write_json(options.json)
    if options.csv:
        report.write_csv(options.csv)
    if options.markdown:
        write_text(options.markdown, markdown.page(report))
    if options.plot:
        plot.draw(report, options.plot)
    if _files(options):
        print(f"written: {', '.join(map(str, _files(options)))}")


def _files(options: argparse.Namespace) -> list[Path]:
    """The files that are to be written."""
    return [path for path in (options.json, options.csv, options.markdown, options.plot) if path]


def entry() -> None:
    """Entry point of `lavit-profile`."""
    sys.exit(cli.run(main))
