"""`lavit-predict`: every picture of a folder, a list or a table, with a bundle, offline."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.common import command_line
from lavit_deploy.common.atomic_files import atomic_path, write_text
from lavit_deploy.common.environment import available_cores
from lavit_deploy.common.errors import MissingDependencyError, UsageError
from lavit_deploy.prediction.evaluation import Evaluation, draw, evaluate
from lavit_deploy.prediction.journal import Journal, Record
from lavit_deploy.prediction.run import Options, Predictor
from lavit_deploy.prediction.sources import Source, open_source
from lavit_deploy.prediction.tables import write_table, writer_of
from lavit_deploy.preprocess import MAX_PIXELS

FAILED = 1
"""Exit code when some pictures could not be classified; the others are in the table."""

_EXAMPLES = """\
  lavit-predict lavit_s.bundle photos/ --out results.csv
  lavit-predict lavit_s.bundle 'in/**/*.jpg' --top-k 1
  lavit-predict lavit_s.bundle val/ --labels --out results.parquet --features

exit codes: 0 all done, 1 some pictures could not be classified, 2 wrong input, 3 a package is
missing, 130 interrupted: the same command goes on where it ended"""


def make_parser() -> argparse.ArgumentParser:
    """The options of `lavit-predict`."""
    parser = command_line.parser(
        "lavit-predict",
        "Classify many pictures with a bundle, without a service.",
        _EXAMPLES,
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of lavit-export")
    parser.add_argument(
        "pictures",
        metavar="PICTURES",
        help="a folder, a quoted glob, a list (.txt with a path in a line, .csv with a column of "
        "paths), a table (.parquet), or one picture",
    )
    parser.add_argument(
        "--labels",
        action="store_true",
        help="labels are known: the folder that a picture lies in, or the column `label`; say how "
        "right the answers are",
    )
    result = parser.add_argument_group("result")
    result.add_argument(
        "--out", type=Path, help=".csv, .jsonl or .parquet (default: printed, a line a picture)"
    )
    result.add_argument("--force", action="store_true", help="replace --out, or begin again")
    result.add_argument("--top-k", type=int, default=5, help="classes to name")
    result.add_argument("--logits", action="store_true", help="also the logits; not in .csv")
    result.add_argument(
        "--features",
        action="store_true",
        help="also the vector that the last layer reads, from a graph of ONNX; not in .csv",
    )
    how = parser.add_argument_group("how")
    how.add_argument("--artifact", default="auto", help="by name; auto: the fastest")
    how.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute")
    how.add_argument("--batch", type=int, help="pictures in a call (default: the artifact's)")
    how.add_argument("--threads", type=int, help="of the runtime (default: all cores)")
    how.add_argument(
        "--decoders",
        type=int,
        help="processes that decode; 0: none but this one (default: a core each, none for few)",
    )
    how.add_argument(
        "--max-pixels", type=int, default=MAX_PIXELS, help="the largest picture that is decoded"
    )
    return parser


def main(arguments: Sequence[str] | None) -> int:
    """Predict.

    Returns:
        0, or 1 if some pictures could not be classified.

    Raises:
        LavitError: wrong input, or a package is missing.
    """
    given = make_parser().parse_args(arguments)
    bundle = Bundle.open(given.bundle)
    source = open_source(given.pictures, labelled=given.labels)
    if given.labels and not source.labelled:
        raise UsageError(f"{given.pictures} has no labels: expected a column called label")
    if given.out is not None:
        _check_out(given)
    options = Options(
        artifact=given.artifact,
        device=given.device,
        threads=given.threads,
        batch=given.batch,
        decoders=_decoders(given.decoders, len(source)),
        top_k=given.top_k,
        logits=given.logits,
        features=given.features,
        max_pixels=given.max_pixels,
    )
    with Predictor(bundle, options) as predictor:
        if given.out is None:
            records = _print(predictor, source)
            return _close(lambda: records, bundle.manifest.classes, given)
        return _write(predictor, source, bundle, given)


def _check_out(given: argparse.Namespace) -> None:
    writer_of(given.out)
    if given.out.exists() and not given.force:
        raise UsageError(f"{given.out} exists: --force replaces it, --out writes elsewhere")
    if given.out.suffix.lower() == ".csv" and (given.logits or given.features):
        raise UsageError("CSV has no cells for vectors: use .jsonl or .parquet with --logits")


def _decoders(asked: int | None, pictures: int) -> int:
    """Processes to decode in: their start takes longer than a few pictures do."""
    if asked is not None:
        return asked
    return available_cores() if pictures > 256 else 0


def _print(predictor: Predictor, source: Source) -> list[Record]:
    """Each picture's most likely class on standard output, as it is known."""
    kept: list[Record] = []
    for records in predictor.records(source):
        for record in records:
            if record["status"] == "ok":
                best = record["predictions"][0]
                unknown = "\tunknown" if record.get("unknown") else ""
                print(f"{record['picture']}\t{best['label']}\t{best['probability']:.4f}{unknown}")
            else:
                print(f"{record['picture']}: {record['error']}", file=sys.stderr)
        kept += records
    return kept


def _write(predictor: Predictor, source: Source, bundle: Bundle, given: argparse.Namespace) -> int:
    """Go through the pictures with a journal beside the table, then write the table."""
    confidence = bundle.manifest.confidence
    about: Record = {
        "model": bundle.manifest.name,
        "checkpoint": bundle.manifest.checkpoint.sha256,
        "artifact": predictor.artifact,
        "confidence": None if confidence is None else confidence.temperature,
        "unknown_below": None if confidence is None else confidence.unknown_below,
        "pictures": given.pictures,
        "top_k": given.top_k,
        "labels": given.labels,
        "logits": given.logits,
        "features": given.features,
    }
    path = given.out.with_name(f"{given.out.name}.partial")
    with Journal(path, about, anew=given.force) as journal:
        if journal.done:
            print(f"going on after {len(journal.done):,} pictures", file=sys.stderr)
        try:
            _go_through(predictor, source, journal)
        except KeyboardInterrupt:
            print(
                f"interrupted after {len(journal.done):,} of {len(source):,} pictures; the same "
                "command goes on",
                file=sys.stderr,
            )
            raise
        write_table(given.out, journal.records(), top_k=given.top_k)
        print(f"{given.out}: {len(journal.done):,} pictures, {predictor.artifact}")
        code = _close(journal.records, bundle.manifest.classes, given)
    path.unlink()
    return code


def _go_through(predictor: Predictor, source: Source, journal: Journal) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    left = (item for item in source if item.name not in journal.done)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(source), completed=len(journal.done))
        start, before = time.perf_counter(), len(journal.done)
        for records in predictor.records(left):
            journal.add(records)
            bar.advance(task, len(records))
        seconds = time.perf_counter() - start
    done = len(journal.done) - before
    if done:
        print(
            f"{done:,} pictures in {seconds:.1f} s: {done / seconds:,.0f} a second", file=sys.stderr
        )


def _close(
    records: Callable[[], Iterable[Record]], classes: tuple[str, ...], given: argparse.Namespace
) -> int:
    """Say what failed and, with labels, how right the answers are.

    Args:
        records: gives all of them, again at each call.
        classes: the model's.
        given: the command line.
    """
    total, failed, first = 0, 0, ""
    for record in records():
        total += 1
        if record["status"] != "ok":
            failed += 1
            first = first or f"{record['picture']}: {record['error']}"
    if failed and given.out is not None:
        print(
            f"{failed:,} of {total:,} pictures could not be classified, such as {first}",
            file=sys.stderr,
        )
    if given.labels:
        _evaluate(records(), classes, given.out)
    return FAILED if failed else 0


def _evaluate(records: Iterable[Record], classes: tuple[str, ...], out: Path | None) -> None:
    found = evaluate(records, classes)
    if found is None:
        raise UsageError(
            "no picture that was classified has a label that the model knows: its classes are "
            + ", ".join(classes[:10])
            + (" ..." if len(classes) > 10 else "")
        )
    _print_evaluation(found)
    if out is None:
        return
    report = out.with_suffix(".evaluation.json")
    write_text(report, json.dumps(found.to_dict(), indent=2) + "\n")
    picture = out.with_suffix(".evaluation.png")
    try:
        with atomic_path(picture) as temporary:
            draw(found, classes, temporary)
    except MissingDependencyError as error:
        print(f"no {picture}: {error}", file=sys.stderr)
    else:
        print(f"{report}, {picture}")


def _print_evaluation(found: Evaluation) -> None:
    low, high = found.interval
    print(
        f"accuracy {found.accuracy:.2%} ({low:.2%} to {high:.2%} with 95 % confidence) of "
        f"{found.pictures:,} pictures"
        + (f"; top-5 {found.top_5:.2%}" if found.top_5 is not None else "")
        + f"; calibration error {found.calibration_error:.2%}"
    )
    width = max(len(item.label) for item in found.by_class)
    print(f"{'class':{width}}  pictures  precision  recall")
    for item in found.by_class:
        print(
            f"{item.label:{width}}  {item.pictures:8,}  {_percent(item.precision):>9}  "
            f"{_percent(item.recall):>6}"
        )
    if found.unknown_labels:
        names = ", ".join(f"{name} ({count})" for name, count in found.unknown_labels.items())
        print(f"not counted, for the model has no such class: {names}")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def entry() -> NoReturn:
    """Console script."""
    raise SystemExit(command_line.run(main))
