"""`lavit-profile`: parameters, multiply-adds, latency and throughput of models."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lavit_deploy.common import command_line
from lavit_deploy.common.atomic_files import write_text
from lavit_deploy.common.environment import available_cores, available_memory
from lavit_deploy.common.errors import InferenceError, ProfileError, UsageError
from lavit_deploy.profiles.baselines import BASELINES
from lavit_deploy.profiles.counting import scaling
from lavit_deploy.profiles.extra import profile_extra
from lavit_deploy.profiles.render import markdown, throughput_plot
from lavit_deploy.profiles.subjects.names import resolve
from lavit_deploy.profiles.subjects.profiled_model import RunSettings
from lavit_deploy.profiles.timing.turns import TimingPlan, batch_curve

if TYPE_CHECKING:
    from lavit_deploy.profiles.report.schema import Report
    from lavit_deploy.profiles.session import Session

_MEMORY_SHARE = 0.8

_EXAMPLES = """\
  lavit-profile lavit_s pvt_small swin_tiny
  lavit-profile lavit_s pvt_v2_b2 --batch 1 8 32 --compare lavit_s pvt_v2_b2 --json report.json
  lavit-profile lavit_t lavit_s lavit_b --no-timing --stages --strict
  lavit-profile lavit_s pvt_small --batch 1 --split --growth
  lavit-profile lavit_s.pth my.bundle my.bundle:onnx-fp16 --threads 1
  lavit-profile lavit_s lavit_s@torch-compile --batch 1 8 --max-batch 64 --html report.html
  lavit-profile lavit_s pvt_small --split --roofline --growth --html report.html
  lavit-profile --diff old.json new.json
  lavit-profile --similarity --ckpt best.pth --data fashion-mnist --plot maps.png

models:
  presets      lavit_nano lavit_micro lavit_t lavit_s lavit_b (random weights)
  baselines    {baselines} (random weights)
  checkpoints  .pth .pt .ckpt .bin .safetensors
  bundles      FOLDER (the fastest artifact that passed parity), or FOLDER:ARTIFACT
  @RUNTIME     after any but a bundle: lavit_s@torch-compile beside lavit_s"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    made = command_line.parser(
        "lavit-profile",
        'Parameters, multiply-adds ("FLOPs"), latency and throughput of LaViT and its baselines.',
        _EXAMPLES.format(baselines=" ".join(BASELINES)),
    )
    made.add_argument("models", nargs="*", metavar="MODEL", help="what to profile; see below")
    _add_model_options(made)
    _add_timing_options(made)
    _add_output_options(made)
    _add_difference_options(made)
    return made


def _add_model_options(made: argparse.ArgumentParser) -> None:
    group = made.add_argument_group("how models are run")
    group.add_argument(
        "--runtime",
        choices=("torch", "torch-compile", "cuda-graph"),
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
        "--max-batch",
        type=_positive_int,
        metavar="N",
        help="time at 1, 2, 4, ... N images as well, as far as memory lasts",
    )
    group.add_argument(
        "--memory-limit",
        type=_positive_float,
        metavar="GIB",
        help="on a CPU: halve a batch whose tensors would take more (default: 80 %% of the memory)",
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
    group.add_argument(
        "--split",
        action="store_true",
        help="measure the time of each stage and part too: hooks on PyTorch modules, or the node "
        "profile of ONNX Runtime and OpenVINO",
    )
    group.add_argument(
        "--roofline",
        action="store_true",
        help="measure the machine's peaks, and set the stages of --split against them",
    )
    group.add_argument(
        "--growth",
        type=_positive_int,
        nargs="*",
        metavar="PIXELS",
        help="count at these image sizes too, and fit how each part grows "
        f"(default sizes: {' '.join(map(str, scaling.SIZES))})",
    )


def _add_output_options(made: argparse.ArgumentParser) -> None:
    group = made.add_argument_group("output")
    group.add_argument("--json", type=Path, metavar="FILE", help="write everything that was found")
    group.add_argument("--csv", type=Path, metavar="FILE", help="write a row per model and batch")
    group.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as a page")
    group.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw throughput against multiply-adds"
    )
    group.add_argument(
        "--html", type=Path, metavar="FILE", help="write everything with plots as one HTML file"
    )
    group.add_argument("--stages", action="store_true", help="split multiply-adds by stage as well")
    group.add_argument(
        "--details", action="store_true", help="show costs by operator and by module as well"
    )
    group.add_argument(
        "--strict",
        action="store_true",
        help="fail when an operator that may hold multiply-adds was not counted, or when the "
        "traced count is not the closed form's",
    )


def _add_difference_options(made: argparse.ArgumentParser) -> None:
    group = made.add_argument_group("instead of a run")
    group.add_argument(
        "--similarity",
        action="store_true",
        help="measure how alike the attention maps of neighbouring layers of checkpoints are, "
        "beside the same models untrained; --json, --csv and --plot write it",
    )
    group.add_argument(
        "--ckpt",
        action="append",
        default=[],
        metavar="FILE",
        help="for --similarity: a checkpoint, the same as a MODEL",
    )
    group.add_argument(
        "--data",
        metavar="DATA",
        help="for --similarity: pictures, as lavit-train --data takes them, or a folder of them",
    )
    group.add_argument(
        "--pictures",
        type=_positive_int,
        default=256,
        metavar="N",
        help="for --similarity: how many pictures at most",
    )
    group.add_argument(
        "--diff",
        nargs=2,
        type=Path,
        metavar=("OLD", "NEW"),
        help="compare two JSON reports; ends with 1 if something became slower or is missing",
    )
    group.add_argument(
        "--tolerance",
        type=_positive_float,
        default=5.0,
        metavar="PERCENT",
        help="for --diff: slower by less is no regression",
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
        The exit code: 130 if interrupted, after what was measured has been written; for --diff, 1
        where something became slower.

    Raises:
        LavitError: as its class says.
    """
    options = make_parser().parse_args(arguments)
    if options.diff:
        return _difference(options)
    if options.similarity or options.ckpt or options.data:
        return _similarity(options)
    _check(options)
    session = _session(options)
    with profile_extra("show progress"):
        from lavit_deploy.profiles.progress import Progress
    try:
        with Progress() as progress:
            session.count(strict=options.strict, notify=progress.update)
            session.time(progress.update)
            session.split(progress.update)
            session.measure_peaks(progress.update)
    except KeyboardInterrupt:
        _deliver(session.report(complete=False), options)
        print("interrupted: the report holds what was measured until then", file=sys.stderr)
        return command_line.INTERRUPTED
    except (InferenceError, ProfileError):
        _deliver(session.report(complete=False), options)
        raise
    _deliver(session.report(complete=True), options)
    return 0


def _difference(options: argparse.Namespace) -> int:
    """Compare two reports.

    Raises:
        UsageError: models were given too, or a file is no report.
    """
    if options.models:
        raise UsageError(f"--diff compares two files; leave out {' '.join(options.models)}")
    with profile_extra("show tables"):
        from lavit_deploy.profiles.render import terminal
        from lavit_deploy.profiles.report.diff import difference
        from lavit_deploy.profiles.report.schema import Report
    old, new = (Report.read(path) for path in options.diff)
    found = difference(old, new, tolerance=options.tolerance / 100)
    terminal.show_difference(terminal.console(), found)
    return int(found.regressed)


def _similarity(options: argparse.Namespace) -> int:
    """Measure attention maps.

    Raises:
        UsageError: options that contradict each other, or no checkpoint, or no data.
    """
    names = list(dict.fromkeys((*options.models, *options.ckpt)))
    if not options.similarity:
        raise UsageError("--ckpt and --data are for --similarity, which is not given")
    if not names or not options.data:
        raise UsageError("--similarity needs a checkpoint and --data, such as --data digits")
    for name in names:
        if not Path(name).is_file():
            raise UsageError(f"--similarity measures checkpoints; no file at {name}")
    if options.markdown or options.html:
        raise UsageError("--similarity writes --json, --csv and --plot")
    _check_outputs(options)
    with profile_extra("measure attention maps"):
        from lavit_deploy.profiles.progress import Progress
        from lavit_deploy.profiles.render import terminal
        from lavit_deploy.profiles.similarity import plot, run
    with Progress() as progress:
        found = run.report(names, options.data, options.pictures, progress.update)
    plot.show(terminal.console(), found)
    writers: dict[str, Callable[[Path], None]] = {
        "json": found.write_json,
        "csv": found.write_csv,
        "plot": lambda path: plot.draw(found, path),
    }
    _write_all(_chosen(writers, options))
    return 0


def _check(options: argparse.Namespace) -> None:
    """Find contradictions before anything is built.

    Raises:
        UsageError: says which.
    """
    if not options.models:
        raise UsageError("no MODEL given; --help lists them, and --diff OLD NEW compares reports")
    twice = sorted({name for name in options.models if options.models.count(name) > 1})
    if twice:
        raise UsageError(f"{', '.join(twice)} given twice: every model is timed in each round")
    for name in (name for pair in options.compare for name in pair):
        if name not in options.models:
            raise UsageError(
                f"--compare {name}: not among the models given ({', '.join(options.models)})"
            )
    _check_outputs(options)


def _check_outputs(options: argparse.Namespace) -> None:
    if options.no_timing and (options.compare or options.plot or options.split):
        raise UsageError("--compare, --plot and --split need timings; leave --no-timing out")
    if options.roofline and not options.split:
        raise UsageError("--roofline needs the time of each stage; add --split")
    if options.growth and len(set(options.growth)) < 2:
        raise UsageError(f"--growth {options.growth[0]}: at least two different sizes are needed")
    if options.plot:
        throughput_plot.check(options.plot)
    if options.html:
        throughput_plot.check_installed()
        with profile_extra("write HTML"):
            import lavit_deploy.profiles.render.html_page  # noqa: F401 - found missing before, not after measuring
    files = _files(options)
    for path in files:
        if files.count(path) > 1:
            raise UsageError(f"{path} is given for two outputs; each needs a file of its own")
        if path.is_dir():
            raise UsageError(f"{path} is a folder; a file is needed")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise UsageError(f"cannot write {path}: {folder} is no folder that one may write to")


def _session(options: argparse.Namespace) -> Session:
    with profile_extra("profile models"):
        from lavit_deploy.profiles.session import Session
        from lavit_deploy.profiles.timing.machine_state import machine_state
        from lavit_deploy.profiles.timing.torch_runner import check_device, check_runtime
    check_device(options.device)
    for runtime in (options.runtime, *(name.rpartition("@")[2] for name in options.models)):
        check_runtime(runtime, options.device)
    settings = RunSettings(
        device=options.device,
        threads=options.threads,
        precision=options.precision,
        runtime=options.runtime,
        attention=options.attention,
        image_size=options.image_size,
    )
    curve = batch_curve(options.max_batch) if options.max_batch else ()
    plan = TimingPlan(
        batches=tuple(dict.fromkeys([*options.batch, *curve])),
        memory=_memory(options),
        calls=options.runs,
        seconds=options.seconds,
        warmup=options.warmup,
        warmup_seconds=options.warmup_seconds,
    )
    return Session(
        models=[resolve(name, settings) for name in options.models],
        settings=settings,
        plan=None if options.no_timing else plan,
        comparisons=[(first, second) for first, second in options.compare],
        sizes=scaling.SIZES if options.growth == [] else tuple(options.growth or ()),
        splitting=options.split,
        curve=frozenset(plan.batches) - frozenset(options.batch),
        rooflines=options.roofline,
        before=machine_state(options.device),
    )


def _memory(options: argparse.Namespace) -> int | None:
    """Bytes that tensors may take on a CPU; a GPU refuses by itself what does not fit."""
    if options.device != "cpu":
        return None
    if options.memory_limit:
        return int(options.memory_limit * 2**30)
    return int(_MEMORY_SHARE * available_memory())


def _deliver(report: Report, options: argparse.Namespace) -> None:
    """Print the tables, then write the files."""
    from lavit_deploy.profiles.render import terminal

    # First to the terminal: a file that cannot be written must not cost the measurements.
    terminal.show(terminal.console(), report, stages=options.stages, details=options.details)
    _write_all(_writers(report, options))


def _write_all(writers: Mapping[Path, Callable[[], None]]) -> None:
    """Write every file that can be; one that cannot costs the others nothing.

    Raises:
        ProfileError: says which could not, and why.
    """
    written, failed = [], []
    for path, write in writers.items():
        try:
            write()
        except OSError as error:
            failed.append(f"{path}: {error.strerror}")
        else:
            written.append(str(path))
    if written:
        print(f"written: {', '.join(written)}")
    if failed:
        raise ProfileError(f"cannot write {'; '.join(failed)}")


def _writers(report: Report, options: argparse.Namespace) -> dict[Path, Callable[[], None]]:
    """What writes each file that was asked for."""

    def html(path: Path) -> None:
        from lavit_deploy.profiles.render.html_page import write_html

        write_html(report, path)

    writers: dict[str, Callable[[Path], None]] = {
        "json": report.write_json,
        "csv": report.write_csv,
        "markdown": lambda path: write_text(path, markdown.page(report)),
        "plot": lambda path: throughput_plot.draw(report, path),
        "html": html,
    }
    return _chosen(writers, options)


def _chosen(
    writers: Mapping[str, Callable[[Path], None]], options: argparse.Namespace
) -> dict[Path, Callable[[], None]]:
    """Those whose option names a file."""
    return {
        path: functools.partial(write, path)
        for name, write in writers.items()
        if (path := getattr(options, name))
    }


def _files(options: argparse.Namespace) -> list[Path]:
    """The files that are to be written."""
    files = (options.json, options.csv, options.markdown, options.plot, options.html)
    return [path for path in files if path]


def entry() -> None:
    """Entry point of `lavit-profile`."""
    sys.exit(command_line.run(main))
