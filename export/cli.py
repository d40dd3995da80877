"""`lavit-export`: one command from a checkpoint to a bundle that can be served."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, get_args

from lavit_deploy.common import command_line
from lavit_deploy.common.errors import MissingDependencyError, UsageError
from lavit_deploy.export.request import (
    BATCH,
    MAX_DROP,
    MAX_REFUSED,
    TARGETS,
    EngineOptions,
    LessAttention,
    NarrowMlp,
    Request,
)
from lavit_deploy.families.catalogue import preset_names
from lavit_deploy.manifest import Precision

PARITY_FAILED = 1
"""Exit code when the bundle was written but an artifact that was asked for failed parity."""

_EXAMPLES = """\
  lavit-export --ckpt lavit_s.pth
  lavit-export --ckpt lavit_s.pth --fp16 --out lavit_s.bundle --batch 1 16 64
  lavit-export --ckpt weights.safetensors --arch lavit_s --classes imagenet.txt

exit codes: 0 done, 1 an artifact that was asked for failed parity or could not be built,
2 wrong input, 3 a package is missing, 130 or 143 interrupted"""


def make_parser() -> argparse.ArgumentParser:
    """The options of `lavit-export`."""
    parser = command_line.parser(
        "lavit-export",
        "Turn a LaViT checkpoint into a bundle: exported, compared with the original, timed.",
        _EXAMPLES,
    )
    source = parser.add_argument_group("checkpoint")
    source.add_argument(
        "--ckpt",
        type=Path,
        required=True,
        help="checkpoint: .pth, .safetensors, an index of shards, or a folder with config.json",
    )
    source.add_argument(
        "--arch", choices=preset_names(), help="preset, where the file does not say"
    )
    source.add_argument("--use-ema", action="store_true", help="take the averaged weights")
    source.add_argument(
        "--weights", metavar="KEY", help="dotted key of the weights, where several sets fit"
    )
    source.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="input of the model in pixels, where the file does not say and shapes do not tell",
    )
    source.add_argument(
        "--classes", type=Path, help="class names: a JSON list, or a text file with one in a line"
    )
    source.add_argument("--name", help="model name shown to clients (default: the file's name)")
    what = parser.add_argument_group("artifacts")
    half = what.add_mutually_exclusive_group()
    half.add_argument("--fp16", action="store_true", help="also build float16")
    half.add_argument("--bf16", action="store_true", help="also build bfloat16")
    what.add_argument(
        "--target",
        nargs="+",
        action="extend",  # given twice, it means both
        choices=TARGETS,
        metavar="FORMAT",
        help=f"{', '.join(TARGETS)}; auto: all that can be built and run here",
    )
    what.add_argument(
        "--mobile",
        action="store_true",
        help="also build every mobile format whose packages are installed",
    )
    what.add_argument(
        "--int8", action="store_true", help="also build int8, calibrated on the pictures of --calib"
    )
    what.add_argument(
        "--calib", metavar="DIR", help="pictures for --int8: a folder, or the word digits"
    )
    what.add_argument(
        "--eval",
        metavar="DIR",
        help="held-out pictures: int8 is judged on them (default: digits for digits, a fifth of a "
        "folder)",
    )
    what.add_argument(
        "--max-drop",
        type=float,
        default=MAX_DROP,
        metavar="POINTS",
        help="points of accuracy (without labels: agreement) that int8 may lose; the most "
        "sensitive blocks return to float until it holds",
    )
    what.add_argument(
        "--max-refused",
        type=float,
        default=MAX_REFUSED,
        metavar="PERCENT",
        help="percent of labelled pictures of --eval that may be answered as unknown; 0: no "
        "picture is ever unknown",
    )
    what.add_argument(
        "--no-fold",
        action="store_true",
        help="keep the paper's operators instead of rewriting them, exactly, to fewer",
    )
    what.add_argument(
        "--batch",
        type=int,
        nargs=3,
        metavar=("MIN", "OPT", "MAX"),
        default=BATCH,
        help="batch sizes: smallest, optimised for, largest",
    )
    what.add_argument(
        "--parity-images",
        type=Path,
        metavar="DIR",
        help="pictures to compare on (default: scikit-image's samples)",
    )
    what.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where parity and latency are measured; auto: CUDA if it can be used",
    )
    _add_engine_options(parser)
    package = parser.add_argument_group("packages of AOTInductor")
    package.add_argument(
        "--mlp",
        choices=get_args(NarrowMlp),
        default="auto",
        help="MLPs of 128 channels and fewer as operators, as one kernel, or as the faster on "
        "this GPU",
    )
    where = parser.add_argument_group("output")
    where.add_argument("--out", type=Path, help="bundle folder (default: CKPT's name + .bundle)")
    where.add_argument("--force", action="store_true", help="replace an existing bundle")
    return parser


def main(arguments: Sequence[str] | None) -> int:
    """Run the export.

    Returns:
        0, or 1 if an artifact that was asked for failed parity or could not be built.

    Raises:
        LavitError: what the user can mend; `lavit_deploy.common.command_line.run` says it.
    """
    options = make_parser().parse_args(arguments)
    start = time.perf_counter()
    out = options.out or Path(f"{options.ckpt.stem}.bundle")
    _check_int8(options)

    try:
        from rich.console import Console

        from lavit_deploy.checkpoint import load_checkpoint
        from lavit_deploy.export import api, console, pipeline
    except ImportError as error:
        raise MissingDependencyError(
            error.name or "a package", extra="export", purpose="run lavit-export"
        ) from None

    pipeline.check_destination(out, force=options.force)
    checkpoint = load_checkpoint(
        options.ckpt,
        arch=options.arch,
        use_ema=options.use_ema,
        weights=options.weights,
        image_size=tuple(options.image_size) if options.image_size else None,
    )
    if options.classes:
        names = read_classes(options.classes, checkpoint.config.num_classes)
        checkpoint = api.with_classes(checkpoint, names)
    job = api.prepare(
        checkpoint,
        request=_request(options),
        calibration=options.calib,
        evaluation=options.eval,
        max_drop=options.max_drop,
        max_refused=options.max_refused,
        batch=tuple(options.batch),
        name=options.name,
        parity_images=options.parity_images,
        device=options.device,
        fold=not options.no_fold,
    )
    terminal = Console()
    console.print_plan(terminal, job, out)
    with console.progress_bar(terminal, pipeline.step_names(job)) as progress:
        bundle = pipeline.export_bundle(job, out, force=options.force, progress=progress)
    console.print_result(terminal, job, bundle, time.perf_counter() - start)
    failed = {item.name for item in bundle.manifest.artifacts if not item.passed}
    failed.update(bundle.manifest.not_built)
    return PARITY_FAILED if failed - job.plan.extras else 0


def _request(options: argparse.Namespace) -> Request:
    half: Precision | None = "fp16" if options.fp16 else "bf16" if options.bf16 else None
    return Request(
        frozenset(options.target or ("auto",)),
        half,
        engine=_engine_options(options),
        mlp=options.mlp,
        mobile=options.mobile,
    )


def _check_int8(options: argparse.Namespace) -> None:
    """Refuse --calib without --int8, and --int8 without --calib.

    Raises:
        UsageError: as said.
    """
    if not options.int8 and options.calib:
        raise UsageError("--calib is for --int8, which is not given")
    if options.int8 and options.calib is None:
        raise UsageError("--int8 needs --calib DIR, a folder of real pictures, or --calib digits")


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("engines of TensorRT and TensorRT-RTX")
    group.add_argument(
        "--compute-capability",
        nargs="+",
        default=(),
        metavar="X.Y",
        help="GPUs that TensorRT-RTX compiles for (default: 8.0 and later)",
    )
    group.add_argument(
        "--tf32", action="store_true", help="float32 engines round the factors of products to TF32"
    )
    group.add_argument(
        "--la",
        choices=get_args(LessAttention),
        default="auto",
        help="less-attention layers as operators, as the plugin, or as the faster on this GPU",
    )
    group.add_argument(
        "--plugin", type=Path, metavar="FILE", help="library with the plugin (make plugin)"
    )
    group.add_argument(
        "--optimization-level",
        type=int,
        choices=range(6),
        default=3,
        help="how long the builder searches",
    )
    group.add_argument(
        "--builder-memory", type=float, metavar="GIB", help="most GPU memory the builder may try"
    )
    group.add_argument(
        "--timing-cache", type=Path, metavar="FILE", help="keep TensorRT's kernel timings here"
    )
    group.add_argument(
        "--hardware-compatible", action="store_true", help="TensorRT: run on Ampere and later"
    )
    group.add_argument(
        "--version-compatible", action="store_true", help="TensorRT: load in later versions too"
    )
    group.add_argument("--refit", action="store_true", help="weights can be exchanged later")
    group.add_argument(
        "--strip", action="store_true", help="engine without weights; loading takes the ONNX file's"
    )


def _engine_options(options: argparse.Namespace) -> EngineOptions:
    if options.builder_memory is not None and not options.builder_memory > 0:
        raise UsageError(f"--builder-memory {options.builder_memory}: expected more than 0 GiB")
    return EngineOptions(
        compute_capabilities=tuple(options.compute_capability),
        tf32=options.tf32,
        hardware_compatible=options.hardware_compatible,
        version_compatible=options.version_compatible,
        refit=options.refit,
        strip=options.strip,
        optimization_level=options.optimization_level,
        memory_gib=options.builder_memory,
        timing_cache=options.timing_cache,
        less_attention=options.la,
        plugin=options.plugin,
    )


def read_classes(path: Path, count: int) -> tuple[str, ...]:
    """Class names from a JSON list, or from a text file with one name in a line.

    Raises:
        UsageError: the file cannot be read, or does not hold `count` names.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows' editors write the mark
        names = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"--classes {path} cannot be read: {why}") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"--classes {path} must be a JSON list of names")
    names = [name.strip() for name in names]
    while names and not names[-1]:
        names.pop()  # the empty line at the end of the file
    if len(names) != count:
        raise UsageError(f"--classes {path} has {len(names)} names, the model has {count} classes")
    return tuple(names)


def entry() -> None:
    """The console script."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(command_line.run(main))


def _terminate(number: int, _frame: object) -> NoReturn:
    """End as after Ctrl-C, so that what is half built is removed."""
    sys.exit(128 + number)
