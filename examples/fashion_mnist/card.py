"""Write what is beside this file: pictures, the training's curve, and the model card's numbers.

    python examples/fashion_mnist/card.py                     # with dataset-fashion-mnist installed
    python examples/fashion_mnist/card.py --data fashion-mnist:FOLDER --runs runs/a runs/b

The pictures are the first test picture of every class, not chosen by how well they are recognised,
28 x 28 pixels as in the data set. The card is README.md; what stands between its two marks is
measured here, on the checkpoint as it is and all 10,000 test pictures.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch

from lavit_deploy.checkpoint import Checkpoint, load_checkpoint
from lavit_deploy.common.atomic_files import atomic_path, write_text
from lavit_deploy.datasets import DataSource, open_data
from lavit_deploy.prediction.evaluation import Evaluation, draw, evaluate
from lavit_deploy.prediction.journal import Record
from lavit_deploy.preprocess import normalise
from lavit_deploy.tasks.confidence import fit_confidence, probabilities

HERE = Path(__file__).resolve().parent
CHECKPOINT = HERE.parent / "lavit_fashion_mnist.pth"
CURVE = "training.csv"
BEGIN, END = "<!-- measured by card.py: begin -->", "<!-- measured by card.py: end -->"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="fashion-mnist", help="what lavit-train takes")
    parser.add_argument(
        "--runs", type=Path, nargs="+", help="folders of the trainings, in order (default: kept)"
    )
    options = parser.parse_args(arguments)
    checkpoint = load_checkpoint(CHECKPOINT)
    data = open_data(options.data, checkpoint.preprocess.crop[0])
    write_pictures(data, HERE / "pictures")
    if options.runs:
        join_curves(options.runs, HERE / CURVE)
    draw_curve(HERE / CURVE, HERE / "curve.png")
    logits = test_logits(checkpoint, data)
    labels = np.asarray(data.held_out.labels)
    found = evaluate(records(logits, labels, data.classes), data.classes)
    if found is None:
        raise SystemExit("error: the test pictures have no labels")
    draw(found, data.classes, HERE / "evaluation.png")
    write_card(measured(checkpoint, found, logits, labels))


def write_pictures(data: DataSource, folder: Path) -> None:
    """Write the first test picture of every class as `CLASS.png`."""
    folder.mkdir(exist_ok=True)
    labels = list(data.held_out.labels)
    for label, name in enumerate(data.classes):
        with atomic_path(folder / f"{file_name(name)}.png") as path:
            data.held_out.image(labels.index(label)).convert("L").save(path)


def file_name(label: str) -> str:
    """A class as part of a path: "T-shirt/top" -> "t-shirt-top"."""
    return label.lower().replace("/", "-").replace(" ", "-")


def join_curves(runs: Sequence[Path], out: Path) -> None:
    """The trainings' metrics.csv under each other, with the number of the training."""
    rows: list[dict[str, str]] = []
    for number, run in enumerate(runs, start=1):
        with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
            rows += [{"training": str(number), **row} for row in csv.DictReader(file)]
    with atomic_path(out) as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def draw_curve(table: Path, out: Path) -> None:
    """Test accuracy of both weights, and the loss, by epoch of all trainings together."""
    from matplotlib.figure import Figure

    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    epochs = np.arange(1, len(rows) + 1)
    figure = Figure(figsize=(8, 4), layout="constrained")
    axis = figure.subplots()
    for column, label in (("accuracy", "weights"), ("ema_accuracy", "averaged weights")):
        axis.plot(epochs, [100 * float(row[column]) for row in rows], label=label)
    for epoch, (before, after) in enumerate(itertools.pairwise(rows), start=1):
        if before["training"] != after["training"]:
            axis.axvline(epoch + 0.5, color="grey", linewidth=0.8, linestyle=":")
    axis.set_ylim(80, 95)
    axis.set_xlabel("epoch (dotted: the next training begins)")
    axis.set_ylabel("test accuracy, %")
    axis.grid(alpha=0.3)
    loss = axis.twinx()
    losses = [float(row["classification_loss"]) for row in rows]
    loss.plot(epochs, losses, color="C3", linewidth=0.8, label="training cross-entropy")
    loss.set_ylabel("cross-entropy, nats")
    figure.legend(loc="outside lower center", ncols=3)
    with atomic_path(out) as path:
        figure.savefig(path, dpi=110, format="png")


@torch.inference_mode()
def test_logits(checkpoint: Checkpoint, data: DataSource) -> np.ndarray:
    """Of every test picture, float32 [N, K]."""
    model = checkpoint.build()
    pictures = [
        checkpoint.preprocess(data.held_out.image(index)) for index in range(len(data.held_out))
    ]
    parts = [
        model(
            torch.from_numpy(
                normalise(np.stack(pictures[start : start + 500]), checkpoint.preprocess)
            )
        )
        for start in range(0, len(pictures), 500)
    ]
    return torch.cat(parts).numpy()


def records(logits: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> list[Record]:
    """As `lavit-predict --labels` gives them."""
    shares = probabilities(logits)
    orders = np.argsort(-shares, axis=1)[:, :5]
    return [
        {
            "status": "ok",
            "label": classes[label],
            "predictions": [
                {"index": int(index), "label": classes[index], "probability": float(row[index])}
                for index in order
            ],
        }
        for row, label, order in zip(shares, labels, orders, strict=True)
    ]


def measured(
    checkpoint: Checkpoint, found: Evaluation, logits: np.ndarray, labels: np.ndarray
) -> str:
    """The measured part of the card."""
    weights = sum(value.numel() for value in checkpoint.state_dict.values())
    low, high = found.interval
    confidence = fit_confidence(logits, labels, source="test pictures", max_refused=0.05)
    lines = [
        f"- {weights / 1e6:.2f} M numbers, {CHECKPOINT.stat().st_size / 1e6:.1f} MB",
        (
            f"- **accuracy {found.accuracy:.2%}** of {found.pictures:,} test pictures "
            f"({low:.2%} to {high:.2%} with 95 % confidence); among the first five "
            f"{found.top_5:.2%}"
        ),
        (
            f"- expected calibration error {confidence.error_before:.2%} as it is; "
            f"{confidence.error:.2%} with a temperature of {confidence.temperature:.3f} "
            "(each half of the test pictures judged with the other half's)"
        ),
        "",
        "| class | found (recall) | right when answered (precision) | most often taken for |",
        "|---|---|---|---|",
    ]
    classes = [one.label for one in found.by_class]
    for place, one in enumerate(found.by_class):
        row = np.array(found.confusion[place])
        row[place] = 0
        other = int(row.argmax())
        lines.append(
            f"| {one.label} | {one.recall:.1%} | {one.precision:.1%} | "
            f"{classes[other]}, {row[other]} of {one.pictures} |"
        )
    return "\n".join(lines)


def write_card(text: str) -> None:
    """Put the measured part between the marks of README.md."""
    card = HERE / "README.md"
    before, begin, rest = card.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"error: {card} has no marks {BEGIN} and {END}")
    write_text(card, f"{before}{BEGIN}\n{text}\n{END}{after}")


if __name__ == "__main__":
    mpl.use("agg")
    main()
