"""Int8 against float on this CPU: accuracy, agreement, size and latency of every artifact.

    lavit-export --ckpt examples/lavit_digits.pth --int8 --calib digits --out digits.bundle
    python benchmarks/quantized.py --bundle digits.bundle lavit_s.bundle \
        --checkpoint examples/lavit_digits.pth lavit_s.pth --out profiles/reports/quantized
    python benchmarks/quantized.py --rival pvt_small swin_tiny --out profiles/reports/quantized

Accuracy and agreement are the bundle's own, measured on held-out pictures by `lavit-export`. All
artifacts of a model are timed in turn, with `plain`: torch.onnx.export as it comes, in ONNX Runtime
float32. Rivals go through the same Q/DQ code, all their weighted products but the first, with
percentile ranges, random weights and crops of scikit-image's samples. Rows of other models that the
report already has are kept, so parts can be measured apart.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

from export.pictures import sample_pictures
from export.quantization.accuracy import loss
from export.quantization.products import Product, output_axis
from export.quantization.qdq import insert
from export.quantization.ranges import collect, steps
from lavit_deploy.bundle import Bundle
from lavit_deploy.checkpoint import load_checkpoint
from lavit_deploy.environment import Environment
from lavit_deploy.files import atomic_path, write_text
from lavit_deploy.preprocess import Pixels, Preprocess, normalise
from lavit_deploy.runtimes.onnxruntime import import_onnxruntime
from lavit_deploy.runtimes.opening import open_artifact
from lavit_deploy.runtimes.openvino import cpu_precisions, import_openvino, precision_config
from lavit_deploy.timing import alternate, median_ms
from profiles.baselines import BASELINES
from profiles.building import build

BATCHES = (1, 8)

Call = Callable[[Pixels], object]


@dataclass(frozen=True)
class Row:
    """One artifact of one model.

    Attributes:
        model: the model's name.
        artifact: the artifact's name; "plain" is what the others are compared with.
        mib: size of its files, MiB.
        agreement: share of held-out pictures with float32's class, 0 to 1.
        accuracy: share of right classes, 0 to 1; None without labels.
        ms: median milliseconds per picture, by batch size.
        speed: pictures per second over those of "plain", by batch size.
        note: what else there is to say, such as why it failed.
    """

    model: str
    artifact: str
    mib: float
    agreement: float | None
    accuracy: float | None
    ms: dict[str, float]
    speed: dict[str, float]
    note: str = ""


def main() -> None:
    """Measure what is asked for and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", nargs="*", type=Path, default=[], help="from lavit-export")
    parser.add_argument("--checkpoint", nargs="*", type=Path, default=[], help="one per bundle")
    parser.add_argument("--rival", nargs="*", choices=sorted(BASELINES), default=[])
    parser.add_argument("--runs", type=int, default=15, help="rounds of each batch size")
    parser.add_argument("--seconds", type=float, default=20.0, help="most time of a batch size")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    options = parser.parse_args()
    if len(options.bundle) != len(options.checkpoint):
        parser.error("--checkpoint: give one checkpoint for each bundle, in the same order")
    file = options.out / "report.json"
    old = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    rows = [Row(**row) for row in old]
    for path, checkpoint in zip(options.bundle, options.checkpoint, strict=True):
        rows = _joined(rows, bundle_rows(path, checkpoint, options), options.out)
    for name in options.rival:
        rows = _joined(rows, rival_rows(name, options), options.out)


def _joined(rows: list[Row], new: list[Row], out: Path) -> list[Row]:
    """The report with the rows of a model replaced; written at once."""
    made = {(row.model, row.artifact) for row in new}
    rows = [row for row in rows if (row.model, row.artifact) not in made] + new
    write_report(rows, out)
    return rows


def bundle_rows(path: Path, checkpoint_file: Path, options: argparse.Namespace) -> list[Row]:
    """Every artifact of a bundle that runs on this CPU, and the plain export."""
    bundle = Bundle.open(path)
    checkpoint = load_checkpoint(checkpoint_file)
    name = bundle.manifest.name
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plain = export_plain(checkpoint.build(), folder, checkpoint.config.image_size)
        calls: dict[str, Call] = {"plain": _plain_call(plain, checkpoint.preprocess)}
        rows = [Row(name, "plain", _mib(plain), 1.0, None, {}, {})]
        for item in bundle.manifest.artifacts:
            if item.runtime not in {"onnxruntime", "openvino"} or "cpu" not in item.devices:
                continue
            calls[item.name] = stack.enter_context(open_artifact(bundle, item)).infer
            about = item.quantization
            rows.append(
                Row(
                    name,
                    item.name,
                    item.total_bytes / 2**20,
                    item.parity.top1_agreement,
                    about.accuracy if about else None,
                    {},
                    {},
                    item.parity.reason,
                )
            )
            if about:
                rows[0] = replace(rows[0], accuracy=about.float_accuracy)
        return timed(rows, calls, sample_pictures(checkpoint.preprocess).images, options)


def rival_rows(name: str, options: argparse.Namespace) -> list[Row]:
    """A baseline: plain, OpenVINO float32, bfloat16 where there is, and int8."""
    preprocess = Preprocess()
    pictures = sample_pictures(preprocess).images
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        attention = "eager" if name.startswith("swin") else "sdpa"
        plain = export_plain(_Logits(build(BASELINES[name], attention)), folder, (224, 224))
        ov = import_openvino()
        core = ov.Core()
        model = core.read_model(_quantized(plain, normalise(pictures[::2], preprocess)))
        xml = folder / "int8.xml"
        ov.save_model(model, xml, compress_to_fp16=False)
        calls: dict[str, Call] = {"plain": _plain_call(plain, preprocess)}
        sizes = {"plain": _mib(plain)}
        for kind, file in (("openvino", plain), ("openvino-int8", xml)):
            for rest in cpu_precisions():
                compiled = core.compile_model(core.read_model(file), "CPU", precision_config(rest))
                key = f"{kind}-{rest}"
                calls[key] = lambda images, run=compiled: run([normalise(images, preprocess)])[0]
                sizes[key] = _mib(file) + (_mib(file.with_suffix(".bin")) if file == xml else 0.0)
        held_out = pictures[1::2]
        reference = calls["plain"](held_out)
        rows = [
            Row(
                name,
                key,
                sizes[key],
                loss(np.asarray(call(held_out)), np.asarray(reference), None).agreement,
                None,
                {},
                {},
            )
            for key, call in calls.items()
        ]
        return timed(rows, calls, pictures, options)


def _quantized(plain: Path, calibration: npt.NDArray[np.float32]) -> bytes:
    """The Q/DQ graph of a plain export, for images float32 [N, 3, H, W]."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(plain))
    dimensions = {item.name: len(item.dims) for item in graph.graph.initializer}
    found = [
        Product(
            node.name,
            node.input[0],
            node.input[1],
            output_axis(node, dimensions[node.input[1]]),
            "all",
        )
        for node in graph.graph.node
        if node.op_type in {"MatMul", "Gemm", "Conv"}
        and node.input[1] in dimensions
        and node.input[0] != "images"
    ]
    histograms = collect(graph, [item.activation for item in found], calibration)
    return insert(graph, found, steps(histograms, "percentile")).SerializeToString()


def timed(
    rows: list[Row], calls: dict[str, Call], pictures: Pixels, options: argparse.Namespace
) -> list[Row]:
    """The rows with medians of calls that were made in turn."""
    ms: dict[str, dict[str, float]] = {key: {} for key in calls}
    for batch in BATCHES:
        turns = {key: partial(call, pictures[:batch]) for key, call in calls.items()}
        seconds = alternate(turns, runs=options.runs, budget_seconds=options.seconds)
        for key, values in seconds.items():
            ms[key][str(batch)] = round(median_ms(values) / batch, 3)
    plain = ms["plain"]
    return [
        replace(
            row,
            ms=ms[row.artifact],
            speed={
                batch: round(plain[batch] / value, 2) for batch, value in ms[row.artifact].items()
            },
        )
        for row in rows
    ]


class _Logits(nn.Module):
    """A model of transformers that gives its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=images).logits


def export_plain(model: nn.Module, folder: Path, size: tuple[int, int]) -> Path:
    """What a user gets without this project: float32 images [B, 3, H, W] in."""
    file = folder / "plain.onnx"
    torch.onnx.export(
        model.eval(),
        (torch.zeros(2, 3, *size),),
        file,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},),
        input_names=["images"],
        external_data=False,
        verbose=False,
    )
    return file


def _plain_call(file: Path, preprocess: Preprocess) -> Call:
    session = import_onnxruntime().InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": normalise(images, preprocess)})[0]


def _mib(file: Path) -> float:
    return file.stat().st_size / 2**20


def write_report(rows: Sequence[Row], out: Path) -> None:
    """Write `report.json`, `table.md` and `speed.png` into the folder `out`."""
    environment = Environment.here()
    report = {
        "environment": environment.model_dump(mode="json"),
        "rows": [asdict(row) for row in rows],
    }
    write_text(out / "report.json", json.dumps(report, indent=1) + "\n")
    write_text(out / "table.md", markdown(rows, environment))
    plot(rows, out / "speed.png")


def markdown(rows: Sequence[Row], environment: Environment) -> str:
    """One row for each artifact."""
    lines = [
        f"{environment.cpu}, {environment.cores} cores ({', '.join(environment.cpu_features)}).",
        "Milliseconds per picture, medians; x: pictures per second over `plain`.",
        "",
        "| model | artifact | MiB | agreement | accuracy | ms @1 | x | ms @8 | x | note |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        shares = [
            "-" if share is None else f"{share:.2%}" for share in (row.agreement, row.accuracy)
        ]
        times = [
            text
            for batch in map(str, BATCHES)
            for text in (f"{row.ms.get(batch, 0):.2f}", f"{row.speed.get(batch, 0):.2f}")
        ]
        cells = [row.model, row.artifact, f"{row.mib:.1f}", *shares, *times, row.note]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Speed over `plain` at the larger batch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.24 * len(rows) + 1.4), layout="constrained")
    axes = figure.subplots()
    labels = [f"{row.model} {row.artifact}" for row in rows]
    axes.barh(labels, [row.speed.get(str(BATCHES[-1]), 0.0) for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel(f"pictures per second over plain, batch {BATCHES[-1]}")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


if __name__ == "__main__":
    main()
