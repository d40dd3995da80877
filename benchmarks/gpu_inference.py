"""LaViT and its rivals on a GPU, in the ways that a user would try, timed in turn in one run.

    python benchmarks/gpu_inference.py --out docs/reports/gpu-inference
    python benchmarks/gpu_inference.py --models lavit_s --batch 64 --ways eager ours
    TRITON_INTERPRET=1 python benchmarks/gpu_inference.py --device cpu --smoke

All compute in half precision (`--precision`), from pictures that are on the GPU already unless it
is said otherwise:

- eager: PyTorch under autocast.
- compile: torch.compile(mode="max-autotune") of the same.
- aoti: the plain model, compiled ahead of time by AOTInductor.
- onnxruntime: a plain torch.onnx.export in half precision, CUDA provider, pictures from the host.
- ours: what `lavit-export --target aoti` puts into a bundle: folded, the less-attention operator.
- ours-fused-mlp: the same with the narrow stages' MLPs as one kernel (`--mlp fused`).

Medians of CUDA events; FLOP/s are set against the card's own best half-precision product of 8192.
A way that fails is named with its reason, and the others are measured all the same. On a CPU
(`--device cpu`) the program can be tried, with clock time; `--smoke` takes a small model, one batch
and few runs for that.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from cpu_inference import rival
from torch import Tensor, nn

from lavit_deploy.common import command_line
from lavit_deploy.common.alternation import median_ms
from lavit_deploy.common.atomic_files import write_text
from lavit_deploy.common.environment import Environment
from lavit_deploy.common.errors import MissingDependencyError, UsageError
from lavit_deploy.export.graphs.precision import to_precision
from lavit_deploy.export.judging.parity_pictures import sample_pictures
from lavit_deploy.export.targets.aoti import compile_package
from lavit_deploy.folding.fold import default_rewrites, fold
from lavit_deploy.kernels.rewrite_less_attention import FuseLessAttention
from lavit_deploy.kernels.rewrite_mlp import FuseNarrowMlps
from lavit_deploy.model.config import PRESETS, preset
from lavit_deploy.model.lavit import LaViT
from lavit_deploy.preprocess import Preprocess, normalise
from lavit_deploy.runtimes.onnxruntime import import_onnxruntime
from lavit_deploy.runtimes.specs import distributions

if TYPE_CHECKING:
    import onnxruntime

MODELS = ("lavit_s", "pvt_small", "pvt_v2_b2", "swin_tiny")
BATCHES = (1, 8, 64, 256)
WAYS = ("eager", "compile", "aoti", "onnxruntime", "ours", "ours-fused-mlp")
_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
_WARM_UP = 5

Call = Callable[[], object]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print as it goes, and write the report.

    Returns:
        0, or 1 where a way failed.

    Raises:
        UsageError: there is no GPU, and no CPU is asked for.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models",
        nargs="+",
        choices=(*MODELS, *sorted(set(PRESETS) - set(MODELS))),
        default=MODELS,
    )
    parser.add_argument("--batch", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--precision", choices=tuple(_TYPES), default="fp16")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, help="folder of the report")
    parser.add_argument("--smoke", action="store_true", help="lavit_micro, batch 1, 2 runs")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("no NVIDIA GPU, or a PyTorch without CUDA: this benchmark is for one")
    if options.smoke:
        options.models, options.batch, options.runs = ("lavit_micro",), (1,), 2

    warnings.simplefilter("ignore")
    torch.set_float32_matmul_precision("high")
    peak = product_peak(options)
    print(f"product of 8192 in {options.precision}: {peak / 1e12:.1f} TFLOP/s", flush=True)
    rows: list[dict[str, object]] = []
    for name in options.models:
        for row in measure(name, options, peak):
            rows.append(row)
            print(json.dumps(row), flush=True)
        if options.out:  # after every model: what was measured outlives what fails later
            report = {
                "environment": Environment.here(distributions()).model_dump(mode="json"),
                "precision": options.precision,
                "product_flops_per_second": peak,
                "rows": rows,
            }
            write_text(options.out / "report.json", json.dumps(report, indent=1) + "\n")
            write_text(options.out / "table.md", markdown(rows, options.device))
    return 1 if any(row["failed"] for row in rows) else 0


def product_peak(options: argparse.Namespace) -> float:
    """FLOP/s of a large square product in the precision that is measured."""
    size = 8192 if options.device == "cuda" else 1024
    dtype = _TYPES[options.precision]
    first, second = torch.randn(2, size, size, device=options.device).to(dtype)
    times = timed({"product": partial(torch.mm, first, second)}, options)
    return 2 * size**3 / (min(times["product"]))


def measure(name: str, options: argparse.Namespace, peak: float) -> Iterator[dict[str, object]]:
    """One row for each batch size: images per second of every way."""
    torch.manual_seed(0)
    model = LaViT(preset(name)).eval() if name in PRESETS else rival(name)
    size = model.config.image_size if isinstance(model, LaViT) else (224, 224)
    preprocess = Preprocess(resize=max(size), crop=size)
    flops = 2 * multiply_adds(model, size)
    pictures = sample_pictures(preprocess).images
    with tempfile.TemporaryDirectory() as scratch:
        makers = ways(model, preprocess, Path(scratch), options)
        for batch in options.batch:
            pixels = np.resize(pictures, (batch, *pictures.shape[1:]))
            calls, failed = called_once(makers, pixels)
            times = timed(calls, options)
            medians = {way: median_ms(seconds) for way, seconds in times.items()}
            yield {
                "model": name,
                "batch": batch,
                "ms": medians,
                "images_per_second": {way: batch * 1e3 / ms for way, ms in medians.items()},
                "share_of_peak": {
                    way: batch * flops * 1e3 / ms / peak for way, ms in medians.items()
                },
                "failed": failed,
            }


def called_once(
    makers: dict[str, Callable[[np.ndarray], Call]], pixels: np.ndarray
) -> tuple[dict[str, Call], dict[str, str]]:
    """Make every way's call and try it: those that work, and why the others do not."""
    calls, failed = {}, {}
    for way, make in makers.items():
        try:
            call = make(pixels)
            call()
        except Exception as error:  # noqa: BLE001 - whatever it is, the others are measured
            first = (str(error).strip().splitlines() or [""])[0]
            failed[way] = f"{type(error).__name__} {first}".strip()
            traceback.print_exc()  # a first run is for finding out
            continue
        calls[way] = call
    return calls, failed


def multiply_adds(model: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-adds of one picture, counted by PyTorch in products and convolutions."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with (
        counter,
        torch.inference_mode(),
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        model(torch.zeros(1, 3, *size))
    return counter.get_total_flops() // 2


def ways(
    model: nn.Module, preprocess: Preprocess, scratch: Path, options: argparse.Namespace
) -> dict[str, Callable[[np.ndarray], Call]]:
    """For each way, what makes a call from uint8 pictures [B, H, W, 3]."""
    dtype = _TYPES[options.precision]
    onnx_file = scratch / "plain.onnx"
    # LaViT keeps its scores in float32, and takes pictures in that.
    whole = options.precision == "fp16" and not isinstance(model, LaViT)
    host = torch.float16 if whole else torch.float32
    ours = {}
    if isinstance(model, LaViT):  # before `model` goes to the device
        ours = {
            way: folded(model, preprocess, options, fuse_mlp=way == "ours-fused-mlp")
            for way in ("ours", "ours-fused-mlp")
            if way in options.ways
        }
    model = model.to(options.device)

    def floats(pixels: np.ndarray) -> Tensor:
        return torch.from_numpy(normalise(pixels, preprocess)).to(options.device)

    def autocast(forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        with torch.inference_mode(), torch.autocast(options.device, dtype):
            return forward(images)

    def eager(pixels: np.ndarray) -> Call:
        return partial(autocast, model, floats(pixels))

    def compiled(pixels: np.ndarray) -> Call:
        torch.compiler.reset()  # each batch size is compiled for itself
        return partial(autocast, torch.compile(model, mode="max-autotune"), floats(pixels))

    def aoti(pixels: np.ndarray) -> Call:
        images = floats(pixels).to(dtype)
        half = _Half(model, dtype).eval()
        return package(half, images, scratch / f"plain.{len(pixels)}.pt2", options)

    def onnxruntime(pixels: np.ndarray) -> Call:
        if not onnx_file.exists():
            plain_onnx(model, preprocess.crop, onnx_file, host, options)
        feed = {"images": floats(pixels).to(host).cpu().numpy()}
        return partial(session_of(onnx_file, options).run, None, feed)

    def own(way: str, pixels: np.ndarray) -> Call:
        images = torch.from_numpy(pixels).to(options.device)
        return package(ours[way], images, scratch / f"{way}.{len(pixels)}.pt2", options)

    made = {"eager": eager, "compile": compiled, "aoti": aoti, "onnxruntime": onnxruntime}
    made |= {way: partial(own, way) for way in ours}
    return {way: make for way, make in made.items() if way in options.ways}


def session_of(file: Path, options: argparse.Namespace) -> onnxruntime.InferenceSession:
    """A session that runs on the device that is asked for, and nowhere else.

    Raises:
        MissingDependencyError: ONNX Runtime cannot: by itself it would go on, on the CPU.
    """
    ort = import_onnxruntime()
    provider = "CUDAExecutionProvider" if options.device == "cuda" else "CPUExecutionProvider"
    session = None
    if provider in ort.get_available_providers():
        session = ort.InferenceSession(str(file), providers=[provider])
    if session is None or provider not in session.get_providers():
        raise MissingDependencyError("onnxruntime-gpu", extra="gpu", purpose=f"use {provider}")
    return session


class _Half(nn.Module):
    """A model with its autocast inside, so that it can be exported."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, self.dtype):
            return self.model(images)


def folded(
    model: LaViT, preprocess: Preprocess, options: argparse.Namespace, *, fuse_mlp: bool
) -> nn.Module:
    """What a bundle's package is compiled from."""
    rewrites = default_rewrites()
    if options.device == "cuda":
        rewrites = (*rewrites, FuseLessAttention())
    if fuse_mlp:
        rewrites = (*rewrites, FuseNarrowMlps())
    made = fold(model, preprocess, rewrites=rewrites).model
    return to_precision(made, options.precision).eval().to(options.device)


def package(module: nn.Module, example: Tensor, file: Path, options: argparse.Namespace) -> Call:
    """A call of the module, compiled ahead of time for this batch size."""
    with torch.no_grad():
        program = torch.export.export(module, (example,))
    compile_package(program, file, options.device)
    loaded = torch._inductor.aoti_load_package(str(file))  # noqa: SLF001 - its documented name
    return partial(loaded, example)


def plain_onnx(
    model: nn.Module,
    size: tuple[int, int],
    file: Path,
    dtype: torch.dtype,
    options: argparse.Namespace,
) -> None:
    """A plain export with a dynamic batch; of a rival in one type throughout."""
    plain = (
        to_precision(model, options.precision)
        if isinstance(model, LaViT)
        else copy.deepcopy(model).to(dtype)
    )
    torch.onnx.export(
        plain,
        (torch.zeros(2, 3, *size, device=options.device, dtype=dtype),),
        file,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=max(*options.batch, 2))},),
        input_names=["images"],
        external_data=False,
        verbose=False,
    )


def timed(calls: dict[str, Call], options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of every call, in turn; on CUDA between events."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(_WARM_UP):
            call()
    for _ in range(options.runs):
        for name, call in calls.items():
            if options.device == "cpu":
                start = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - start)
                continue
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            first.record()
            call()
            last.record()
            torch.cuda.synchronize()
            seconds[name].append(first.elapsed_time(last) / 1e3)
    return seconds


def markdown(rows: list[dict[str, object]], device: str) -> str:
    """Images per second, and the share of the card's peak."""
    card = torch.cuda.get_device_name() if device == "cuda" else Environment.here().cpu
    lines = [
        f"{card}; torch {torch.__version__}.",
        "",
        "| model | batch | " + " | ".join(WAYS) + " |",
        "|---|---:|" + "---:|" * len(WAYS),
    ]
    for row in rows:
        rates, shares = row["images_per_second"], row["share_of_peak"]
        cells = (f"{rates[way]:.0f} ({shares[way]:.0%})" if way in rates else "-" for way in WAYS)
        lines.append(f"| {row['model']} | {row['batch']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\nImages per second, in brackets the share of the peak.\n"


if __name__ == "__main__":
    sys.exit(command_line.run(main))
