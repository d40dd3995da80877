"""LaViT and its rivals on this CPU, in the runtimes that a user would try, timed in turn.

For each model and batch size every runtime is called in turn in one process, so that drift of the
machine's speed hits all of them; models follow one another. Reported are medians and ratios.

    python benchmarks/cpu_inference.py --out docs/reports/cpu-inference
    python benchmarks/cpu_inference.py --models lavit_s --batch 8 --compile

What is compared:

- eager: PyTorch, float32.
- compile: torch.compile with its defaults, float32.
- onnxruntime: a plain torch.onnx.export, ONNX Runtime's defaults, float32.
- openvino: the same file, OpenVINO's defaults (bfloat16 where the CPU has it).
- openvino-f32: the same file, OpenVINO held to float32.
- ours-onnxruntime, ours-fp32, ours-bf16: the bundle's artifacts, folded, uint8 pictures in: ONNX
  Runtime float32, OpenVINO float32 and bfloat16. LaViT only: folding is for its layers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lavit_deploy.checkpoint import Checkpoint
from lavit_deploy.common.alternation import alternate, median_ms
from lavit_deploy.common.atomic_files import write_text
from lavit_deploy.common.environment import Environment, available_cores
from lavit_deploy.export.graphs.onnx_graph import write_onnx
from lavit_deploy.export.judging.parity_pictures import sample_pictures
from lavit_deploy.export.judging.reference import run_artifact
from lavit_deploy.export.targets.openvino import ensure_ir
from lavit_deploy.folding.fold import fold
from lavit_deploy.manifest import BatchRange
from lavit_deploy.model.config import PRESETS, preset
from lavit_deploy.model.lavit import LaViT
from lavit_deploy.preprocess import Preprocess, normalise
from lavit_deploy.profiles.baselines import BASELINES
from lavit_deploy.profiles.counting.architecture import Attention
from lavit_deploy.runtimes.onnxruntime import OnnxRuntime, import_onnxruntime
from lavit_deploy.runtimes.openvino import OpenVinoRuntime, import_openvino
from lavit_deploy.runtimes.specs import distributions
from lavit_deploy.tasks.logits_parity import compare

MODELS = (
    "lavit_t",
    "lavit_s",
    "lavit_b",
    "pvt_tiny",
    "pvt_small",
    "pvt_v2_b1",
    "pvt_v2_b2",
    "swin_tiny",
    "deit_small",
)
BATCHES = (1, 8, 32)
_TITLES = {
    "eager": "PyTorch, eager",
    "compile": "PyTorch, compiled",
    "onnxruntime": "plain export, ONNX Runtime",
    "openvino-f32": "plain export, OpenVINO float32",
    "openvino": "plain export, OpenVINO's own precision",
    "ours-onnxruntime": "bundle, ONNX Runtime",
    "ours-fp32": "bundle, OpenVINO float32",
    "ours-bf16": "bundle, OpenVINO bfloat16",
}
"""Names of the runtimes in the plot, in its order."""
_SEED = 0
_PEAK_SIZE = 2048

Images = np.ndarray
Call = Callable[[Images], np.ndarray]


def main() -> None:
    """Measure, print as it goes, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--batch", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--runs", type=int, default=12, help="rounds of each batch size")
    parser.add_argument("--seconds", type=float, default=45.0, help="most time of a batch size")
    parser.add_argument(
        "--compile",
        nargs="*",
        choices=MODELS,
        default=MODELS,
        metavar="MODEL",
        help="models for torch.compile too, which takes a minute for each batch size",
    )
    parser.add_argument("--out", type=Path, help="folder of the report")
    parser.add_argument(
        "--resume", action="store_true", help="keep the rows of other models in that report"
    )
    options = parser.parse_args()

    warnings.simplefilter("ignore")
    torch.set_num_threads(available_cores())
    peaks = matrix_product_peaks()
    print("matrix products:", {name: f"{value:.0f} GFLOP/s" for name, value in peaks.items()})
    rows = kept_rows(options.out, options.models) if options.resume else []
    for name in options.models:
        for row in measure(name, options):
            rows.append(row)
            print(json.dumps(row), flush=True)
        if options.out:  # after every model: what was measured outlives what fails later
            write_report(rows, peaks, options.out)


def kept_rows(out: Path, models: Sequence[str]) -> list[dict[str, object]]:
    """Rows of an earlier report on this machine, but for the models measured now."""
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    here = Environment.here()
    there = Environment.model_validate(report["environment"])
    if (there.cpu, there.cores, there.libraries) != (here.cpu, here.cores, here.libraries):
        sys.exit(f"{out} was measured on another machine or with other libraries")
    return [row for row in report["rows"] if row["model"] not in models]


def write_report(rows: list[dict[str, object]], peaks: dict[str, float], out: Path) -> None:
    """Write `report.json`, `table.md` and `speed.png` into the folder `out`."""
    rows = sorted(rows, key=lambda row: (MODELS.index(row["model"]), row["batch"]))
    report = {
        "environment": Environment.here(distributions()).model_dump(mode="json"),
        "threads": available_cores(),
        "matrix_product_gflops": peaks,
        "rows": rows,
    }
    write_text(out / "report.json", json.dumps(report, indent=1) + "\n")
    write_text(out / "table.md", markdown(rows, peaks))
    plot(rows, out / "speed.png")


def matrix_product_peaks() -> dict[str, float]:
    """Best GFLOP/s (a multiply and an add are two) of a square matrix product, by precision."""
    peaks = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        first, second = torch.randn(2, _PEAK_SIZE, _PEAK_SIZE).to(dtype)
        seconds = alternate({name: partial(torch.mm, first, second)}, runs=15, budget_seconds=20)
        peaks[name] = 2 * _PEAK_SIZE**3 / min(seconds[name]) / 1e9
    return peaks


def measure(name: str, options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """One row for each batch size: median milliseconds per image of every runtime."""
    torch.manual_seed(_SEED)
    preprocess = Preprocess()
    model = LaViT(preset(name)).eval() if name in PRESETS else rival(name)
    pictures = sample_pictures(preprocess).images
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        calls = plain_runtimes(model, folder, compiled=name in options.compile)
        agreement = {}
        if isinstance(model, LaViT):
            own = dict(stack.enter_context(our_runtimes(model, preprocess, folder)))
            agreement = agreements(own, calls["eager"], pictures, preprocess)
        for batch in options.batch:
            pixels = pictures[:batch]
            floats = normalise(pixels, preprocess)
            timed = {key: partial(call, floats) for key, call in calls.items()}
            if isinstance(model, LaViT):
                timed |= {key: partial(runtime.infer, pixels) for key, runtime in own.items()}
            seconds = alternate(timed, runs=options.runs, budget_seconds=options.seconds)
            yield {
                "model": name,
                "batch": batch,
                "runs": min(map(len, seconds.values())),
                "ms_per_image": {key: median_ms(value) / batch for key, value in seconds.items()},
                "spread": {key: spread(value) for key, value in seconds.items()},
                **({"top1_agreement": agreement} if agreement else {}),
            }


def spread(seconds: list[float]) -> float:
    """Interquartile range over the median: how noisy the runs were."""
    if len(seconds) < len("iqr"):
        return 0.0
    first, _, third = statistics.quantiles(seconds, n=4)
    return round((third - first) / statistics.median(seconds), 3)


def rival(name: str) -> nn.Module:
    """A baseline that takes float images [B, 3, 224, 224] and gives logits [B, 1000]."""
    if name in BASELINES:
        # transformers' fused Swin cannot be exported with a dynamic batch; its eager form can.
        attention: Attention = "eager" if name.startswith("swin") else "sdpa"
        return _Logits(BASELINES[name].build(attention)).eval()
    from transformers import DeiTConfig, DeiTForImageClassification

    config = DeiTConfig(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        intermediate_size=1536,
        num_labels=1000,
    )
    config._attn_implementation = "sdpa"  # noqa: SLF001 - transformers' own way to choose it
    return _Logits(DeiTForImageClassification(config)).eval()


class _Logits(nn.Module):
    """A model of transformers that gives its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=images).logits


def plain_runtimes(model: nn.Module, folder: Path, *, compiled: bool) -> dict[str, Call]:
    """What a user gets without this project: float32 images [B, 3, H, W] in."""
    file = folder / "plain.onnx"
    example = torch.zeros(2, 3, 224, 224)
    torch.onnx.export(
        model,
        (example,),
        file,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},),
        input_names=["images"],
        external_data=False,
        verbose=False,
    )
    ort, ov = import_onnxruntime(), import_openvino()
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    default = ov.Core().compile_model(file, "CPU")
    exact = ov.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    calls = {
        "eager": _torch_call(model),
        "onnxruntime": lambda images: session.run(None, {"images": images})[0],
        "openvino": lambda images: default(images)[0],
        "openvino-f32": lambda images: exact(images)[0],
    }
    if compiled:
        calls["compile"] = _torch_call(torch.compile(model, dynamic=False))
    return calls


def _torch_call(model: Callable[[torch.Tensor], torch.Tensor]) -> Call:
    def call(images: Images) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(images)).numpy()

    return call


@contextmanager
def our_runtimes(
    model: LaViT, preprocess: Preprocess, folder: Path
) -> Iterator[dict[str, OnnxRuntime | OpenVinoRuntime]]:
    """The artifacts that `lavit-export` puts into a bundle: uint8 images [B, H, W, 3] in."""
    graph, xml = folder / "ours.onnx", folder / "ours.xml"
    batch = BatchRange(minimum=1, optimum=8, maximum=64)
    checkpoint = Checkpoint(
        config=model.config,
        state_dict={},
        preprocess=preprocess,
        classes=(),
        architecture="benchmark",
        weights="model",
        inferred=(),
        file=graph,
        sha256="0" * 64,
    )
    folded = fold(model, preprocess).model
    write_onnx(checkpoint, folded, graph, batch=batch, precision="fp32")
    ensure_ir(graph, xml)
    with ExitStack() as stack:
        opened = {
            "ours-onnxruntime": OnnxRuntime(graph, max_batch=64),
            "ours-fp32": OpenVinoRuntime(xml, max_batch=64),
        }
        if "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            opened["ours-bf16"] = OpenVinoRuntime(xml, max_batch=64, precision="bf16")
        for runtime in opened.values():
            stack.enter_context(runtime)
        yield opened


def agreements(
    own: dict[str, OnnxRuntime | OpenVinoRuntime],
    eager: Call,
    pictures: Images,
    preprocess: Preprocess,
) -> dict[str, float]:
    """Top-1 agreement of our artifacts with float32 PyTorch; near ties count as agreement."""
    reference = eager(normalise(pictures, preprocess))
    found = {}
    for name, runtime in own.items():
        precision = "bf16" if name.endswith("bf16") else "fp32"
        logits = run_artifact(runtime, pictures, (8,))
        found[name] = compare(logits, reference, precision, source="samples").top1_agreement
    return found


def markdown(rows: list[dict[str, object]], peaks: dict[str, float]) -> str:
    """The rows as tables: milliseconds per image, and speed-up over the plain ONNX Runtime."""
    here = Environment.here()
    names = list(dict.fromkeys(key for row in rows for key in row["ms_per_image"]))
    versions = ", ".join(
        f"{name} {here.libraries[name]}"
        for name in ("torch", "onnxruntime", "openvino", "transformers")
        if name in here.libraries
    )
    lines = [
        (
            f"{here.cpu}, {here.cores} cores ({', '.join(here.cpu_features)}); "
            f"Python {here.python}, {versions}."
        ),
        "Matrix product of 2048: "
        + ", ".join(f"{value:.0f} GFLOP/s {name}" for name, value in peaks.items())
        + ".",
        "",
        "Milliseconds per image, medians:",
        "",
        "| model | batch | " + " | ".join(names) + " |",
        "|---|---:|" + "---:|" * len(names),
    ]
    for row in rows:
        times = row["ms_per_image"]
        cells = (f"{times[name]:.1f}" if name in times else "-" for name in names)
        lines.append(f"| {row['model']} | {row['batch']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, object]], path: Path) -> None:
    """Images per second of every runtime, one group of bars for each model, largest batch of 8."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = [row for row in rows if row["batch"] == BATCHES[1]] or rows
    names = [name for name in _TITLES if any(name in row["ms_per_image"] for row in shown)]
    figure, axes = plt.subplots(figsize=(11, 4.5))
    width = 0.85 / len(names)
    for place, row in enumerate(shown):
        found = [name for name in names if name in row["ms_per_image"]]
        for index, name in enumerate(found):  # around the middle, without gaps for what is missing
            x = place + (index - (len(found) - 1) / 2) * width
            axes.bar(x, 1e3 / row["ms_per_image"][name], width, color=f"C{names.index(name)}")
    axes.set_xticks(range(len(shown)), [row["model"] for row in shown])
    axes.set_ylabel("images per second")
    axes.set_title(f"batch {shown[0]['batch']}, {available_cores()} cores")
    bars = [plt.Rectangle((0, 0), 1, 1, color=f"C{index}") for index in range(len(names))]
    axes.legend(bars, [_TITLES[name] for name in names], ncol=2, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
