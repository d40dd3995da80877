"""Int8 against float on this CPU: accuracy, agreement, size and latency of every artifact.

    python benchmarks/quantized_inputs.py --out inputs
    lavit-export --ckpt inputs/lavit_s.pth --int8 --calib inputs/calib --eval inputs/held \
        --out lavit_s.bundle
    python benchmarks/quantized.py --bundle lavit_s.bundle --checkpoint inputs/lavit_s.pth \
        --calib inputs/calib --eval inputs/held --out docs/reports/quantized
    python benchmarks/quantized.py --rival pvt_small swin_tiny \
        --calib inputs/calib --eval inputs/held --out docs/reports/quantized

All artifacts of a model are compared with `plain`, torch.onnx.export as it comes in ONNX Runtime
float32, on the held-out pictures, and timed in turn with it. Rivals go through the same code of
Q/DQ, with random weights. A run replaces the rows of the models that it measured, and with `--only`
the columns, so that parts can be measured apart, and the timing where the machine is idle.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from int8_speed.models import Measured, open_bundle, open_rival
from int8_speed.report import BATCHES, PLAIN, Row, merged, read_rows, write_report
from int8_speed.timing import timed_in_turn

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.checkpoint import load_checkpoint
from lavit_deploy.export.quantization.accuracy_loss import loss
from lavit_deploy.export.quantization.calibration import LabelledPictures, open_split
from lavit_deploy.preprocess import Pixels, Preprocess
from lavit_deploy.profiles.baselines import BASELINES
from lavit_deploy.runtimes.base import Logits

_BATCH = 8


def main() -> None:
    """Measure what is asked for and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", nargs="*", type=Path, default=[], help="from lavit-export")
    parser.add_argument("--checkpoint", nargs="*", type=Path, default=[], help="one per bundle")
    parser.add_argument("--rival", nargs="*", choices=sorted(BASELINES), default=[])
    parser.add_argument(
        "--calib", required=True, help="a folder, or digits; rivals calibrate on it"
    )
    parser.add_argument("--eval", help="held-out pictures (default: a part of --calib)")
    parser.add_argument("--only", choices=["accuracy", "speed"], help="default: both")
    parser.add_argument("--seconds", type=float, default=40.0, help="timing of each batch size")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    options = parser.parse_args()
    if len(options.bundle) != len(options.checkpoint):
        parser.error("--checkpoint: give one checkpoint for each bundle, in the same order")
    for path, file in zip(options.bundle, options.checkpoint, strict=True):
        bundle, checkpoint = Bundle.open(path), load_checkpoint(file)
        split = open_split(options.calib, options.eval, checkpoint.preprocess, checkpoint.classes)
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            measured = open_bundle(bundle, checkpoint, folder, stack)
            report(measured, split.held_out, options)
    for name in options.rival:
        split = open_split(options.calib, options.eval, Preprocess(), ())
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            report(open_rival(name, split, folder, stack), split.held_out, options)


def report(measured: Measured, held_out: LabelledPictures, options: argparse.Namespace) -> None:
    """Measure one model, and write the report with its rows."""
    rows = measured.rows
    if options.only != "speed":
        rows = compared(measured, rows, held_out)
    if options.only != "accuracy":
        rows = timed(measured, rows, held_out.images, options.seconds)
    write_report(merged(read_rows(options.out), rows), options.out)


def compared(measured: Measured, rows: list[Row], held_out: LabelledPictures) -> list[Row]:
    """The rows with agreement, cosine and accuracy on held-out pictures."""
    reference = _logits(measured, PLAIN, held_out.images)
    found = []
    for row in rows:
        logits = _logits(measured, row.artifact, held_out.images)
        lost = loss(logits, reference, held_out.labels)
        found.append(
            replace(
                row,
                agreement=lost.agreement,
                accuracy=lost.accuracy,
                cosine=_smallest_cosine(logits, reference),
            )
        )
    return found


def _logits(measured: Measured, artifact: str, images: Pixels) -> Logits:
    call = measured.calls[artifact]
    return np.concatenate(
        [call(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
    )


def _smallest_cosine(logits: Logits, reference: Logits) -> float:
    products = (logits.astype(np.float64) * reference).sum(axis=1)
    lengths = np.linalg.norm(logits, axis=1) * np.linalg.norm(reference, axis=1)
    return float((products / lengths).min())


def timed(measured: Measured, rows: list[Row], images: Pixels, seconds: float) -> list[Row]:
    """The rows with medians of calls that were made in turn."""
    ms: dict[str, dict[str, float]] = {row.artifact: {} for row in rows}
    others = 0.0
    for batch in BATCHES:
        turns = {key: partial(call, images[:batch]) for key, call in measured.calls.items()}
        found = timed_in_turn(turns, seconds=seconds)
        others = max(others, found.others)
        for key, value in found.ms.items():
            ms[key][str(batch)] = round(value / batch, 3)
    plain = ms[PLAIN]
    return [
        replace(
            row,
            ms=ms[row.artifact],
            speed={
                batch: round(plain[batch] / value, 2) for batch, value in ms[row.artifact].items()
            },
            others=round(others, 3),
        )
        for row in rows
    ]


if __name__ == "__main__":
    main()
