"""The less-attention kernel on a GPU: against other ways to compute it, and the card's limits.

    python benchmarks/la_kernel.py --out la_kernel.json
    python benchmarks/la_kernel.py --tune --batch 64
    TRITON_INTERPRET=1 python benchmarks/la_kernel.py --device cpu --smoke

softmax(P S T^T + C) V for every stage of lavit_s with LA layers, in one run: eager PyTorch,
torch.compile(max-autotune), scaled_dot_product_attention with the transformed scores as its bias,
and the kernel. Medians of CUDA events, the ways in turn; between calls the L2 cache is overwritten,
because in a model other layers do that. `--tune` times other tiles for the kernel, for at most
`--minutes`.

The floor of a call is the larger of two: the bytes that must be moved (S, V and constants read, the
result written) over the measured bandwidth of a copy, and the multiply-adds over the measured rate
of a large half-precision product.

`--device cpu --smoke` runs all of this once, small, on a CPU in Triton's interpreter: whether the
program works, not how fast anything is.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from lavit_deploy.common import command_line
from lavit_deploy.common.atomic_files import write_text
from lavit_deploy.common.environment import Environment
from lavit_deploy.common.errors import UsageError
from lavit_deploy.kernels import less_attention as operators
from lavit_deploy.kernels.tile_sizes import Tile, Types, tile_for
from lavit_deploy.model.config import STAGES, lavit_s

Operands = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Call = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Bench:
    """Where and how large.

    Attributes:
        device: "cuda", or "cpu" for a trial.
        repeats: timed calls of each way.
        cache_bytes: overwritten between calls; more than the L2 cache of any card so far.
        copy_bytes: copied to measure the bandwidth.
        size: of the square product that measures the arithmetic.
        stages: 0-based stages of lavit_s.
        kinds: types of scores and values.
    """

    device: str = "cuda"
    repeats: int = 50
    cache_bytes: int = 256 << 20
    copy_bytes: int = 1 << 30
    size: int = 8192
    stages: tuple[int, ...] = tuple(stage for stage in range(STAGES) if lavit_s().la_start[stage])
    kinds: tuple[tuple[torch.dtype, torch.dtype], ...] = (
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float16),
    )


# The interpreter takes half-precision products only, and seconds for a large stage.
SMOKE = {
    "repeats": 1,
    "cache_bytes": 1 << 20,
    "copy_bytes": 1 << 20,
    "size": 64,
    "stages": (3,),
    "kinds": ((torch.float16, torch.float16),),
}


def operands(
    bench: Bench, batch: int, stage: int, scores: torch.dtype, values: torch.dtype
) -> Operands:
    """Random S, P, T, C and V of one stage of lavit_s."""
    config = lavit_s()
    n, m = config.tokens(stage), config.keys(stage)
    heads, dim = config.heads[stage], config.head_dim(stage)

    def noise(*size: int) -> Tensor:
        return torch.randn(*size, device=bench.device)

    return (
        noise(batch, heads, n, m).to(scores),
        (torch.eye(n, device=bench.device) + noise(n, n) / n).to(scores),
        torch.eye(m, device=bench.device) + noise(m, m) / m,
        noise(n, m),
        noise(batch, m, heads, dim).transpose(1, 2).to(values),  # -> [B, H, M, d]
    )


def kernel(*given: Tensor) -> Tensor:
    """The kernel, as the operator launches it; on a CPU in Triton's interpreter."""
    s, p, t, c, v = given
    return operators.launch(s, p, t, c, v, with_scores=False)[0]


def eager(s: Tensor, p: Tensor, t: Tensor, c: Tensor, v: Tensor) -> Tensor:
    """The same maths in PyTorch operators, products in the scores' type."""
    new_scores = (p @ s) @ t.to(s.dtype).T + c.to(s.dtype)
    return new_scores.float().softmax(-1).to(v.dtype) @ v


def by_bias(s: Tensor, p: Tensor, t: Tensor, c: Tensor, v: Tensor) -> Tensor:
    """Fused attention with queries and keys of zero, so that the bias alone makes the scores."""
    bias = ((p @ s) @ t.to(s.dtype).T + c.to(s.dtype)).to(v.dtype)
    queries = v.new_zeros(*s.shape[:3], v.shape[3])
    return functional.scaled_dot_product_attention(queries, torch.zeros_like(v), v, bias)


def milliseconds(bench: Bench, calls: dict[str, Call]) -> dict[str, float]:
    """Median time of each call, in turn, with a cold L2 cache."""
    flush = torch.empty(bench.cache_bytes, dtype=torch.int8, device=bench.device)
    for call in calls.values():  # compiles, and chooses algorithms
        for _ in range(3 if bench.repeats > 1 else 1):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(bench.repeats):
        for name, call in calls.items():
            flush.zero_()
            times[name].append(_timed(bench.device, call))
    return {name: statistics.median(found) for name, found in times.items()}


def _timed(device: str, call: Call) -> float:
    if device == "cpu":
        begin = time.perf_counter()
        call()
        return (time.perf_counter() - begin) * 1e3
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def limits(bench: Bench) -> tuple[float, float]:
    """Bytes per second of a copy, and multiply-adds per second of a half-precision product."""
    source = torch.empty(bench.copy_bytes, dtype=torch.int8, device=bench.device)
    target = torch.empty_like(source)
    left = torch.randn(bench.size, bench.size, dtype=torch.float16, device=bench.device)
    times = milliseconds(
        bench, {"copy": lambda: target.copy_(source), "product": lambda: left @ left}
    )
    rate = bench.size**3 / times["product"] * 1e3
    return 2 * source.numel() / times["copy"] * 1e3, rate


def floor(given: Operands, bandwidth: float, rate: float) -> float:
    """Milliseconds that no implementation can beat on this card."""
    s, v = given[0], given[4]
    b, h, n, m = s.shape
    dim = v.shape[3]
    read = sum(item.numel() * item.element_size() for item in given)
    moved = read + b * h * n * dim * v.element_size()
    multiplied = b * h * (n * n * m + n * m * m + n * m * dim)
    return max(moved / bandwidth, multiplied / rate) * 1e3


def error(found: Tensor, given: Operands) -> float:
    """Largest difference from float64, over the largest result; the first pictures only."""
    s, p, t, c, v = (item.double() for item in given)
    wanted = (p @ s[:2] @ t.T + c).softmax(-1) @ v[:2]
    return ((found[:2].double() - wanted).abs().max() / wanted.abs().max()).item()


def compare(bench: Bench, batches: list[int]) -> Iterator[dict[str, object]]:
    """Every way, for every stage with LA layers, batch and pair of types; one row for each.

    The first row is about the card.
    """
    bandwidth, rate = limits(bench)
    card = torch.cuda.get_device_name() if bench.device == "cuda" else Environment.here().cpu
    yield {
        "device": card,
        "torch": torch.__version__,
        "copy_bytes_per_second": bandwidth,
        "multiply_adds_per_second": rate,
    }
    for stage, batch, (scores, values) in itertools.product(bench.stages, batches, bench.kinds):
        given = operands(bench, batch, stage, scores, values)
        # PyTorch gives up on a function that it has compiled for many shapes, silently.
        torch.compiler.reset()
        ways: dict[str, Callable[..., Tensor]] = {
            "eager": eager,
            "torch.compile(max-autotune)": torch.compile(
                eager, mode="max-autotune-no-cudagraphs", dynamic=False
            ),
            "scaled_dot_product_attention": by_bias,
            "kernel": kernel,
        }
        times = milliseconds(bench, {name: partial(way, *given) for name, way in ways.items()})
        lowest = floor(given, bandwidth, rate)
        yield {
            "stage": stage + 1,
            "batch": batch,
            "scores": str(scores),
            "values": str(values),
            "milliseconds": times,
            "floor_milliseconds": lowest,
            "fraction_of_floor": lowest / times["kernel"],
            "error": {name: error(way(*given), given) for name, way in ways.items()},
        }


def candidates(tile: Tile) -> Iterator[Tile]:
    """Tiles around the one that is chosen now."""
    grid = itertools.product((16, 32, 64, 128), (16, 32, 64), (2, 4, 8), (1, 2, 3, 4))
    for block_n, block_k, warps, stages in grid:
        yield dataclasses.replace(
            tile, block_n=block_n, block_k=block_k, warps=warps, stages=stages
        )


def tune(bench: Bench, batch: int, seconds: float) -> None:
    """Print the fastest tiles for each stage and pair of types.

    Args:
        bench: where.
        batch: pictures.
        seconds: how long in all; every stage and pair of types gets its share.
    """
    from triton.errors import TritonError

    pairs = [(stage, kind) for stage in bench.stages for kind in bench.kinds]
    for stage, (scores, values) in pairs:
        given = operands(bench, batch, stage, scores, values)
        types: Types = "half" if scores == values else "mixed"
        now = tile_for(given[0].shape[2], given[0].shape[3], types)
        end = time.monotonic() + seconds / len(pairs)
        found = [(milliseconds(bench, {"": partial(_launch, given, now)})[""], now)]
        skipped = tried = 0
        for tile in candidates(now):
            if time.monotonic() > end:
                skipped += 1
                continue
            tried += 1
            try:
                took = milliseconds(bench, {"": partial(_launch, given, tile)})[""]
            except (TritonError, RuntimeError) as reason:
                # Too much shared memory, or a tile that the compiler does not take.
                print(f"  no {tile}: {str(reason).splitlines()[0]}", flush=True)
                continue
            found.append((took, tile))
        print(
            f"stage {stage + 1}, {scores} and {values}: now {found[0][0]:.4f} ms; "
            f"{tried} other tiles tried, {skipped} not for lack of time"
        )
        for took, tile in sorted(found, key=lambda item: item[0])[:5]:
            print(f"  {took:.4f} ms  {tile}", flush=True)


def _launch(given: Operands, tile: Tile) -> None:
    operators.launch(*given, with_scores=False, tile=tile)


def _bench(options: argparse.Namespace) -> Bench:
    """Where to measure.

    Raises:
        UsageError: it cannot be done there.
    """
    if options.device == "cuda":
        if not torch.cuda.is_available():
            raise UsageError("this benchmark needs an NVIDIA GPU, and PyTorch with CUDA")
    elif os.environ.get("TRITON_INTERPRET") != "1":
        raise UsageError("--device cpu runs the kernel in an interpreter: set TRITON_INTERPRET=1")
    elif not options.smoke:
        raise UsageError("--device cpu is for --smoke alone: it takes hours else")
    bench = Bench(options.device)
    return dataclasses.replace(bench, **SMOKE) if options.smoke else bench


def main(arguments: list[str] | None = None) -> int:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64, 256])
    parser.add_argument("--out", type=Path, help="JSON file of the comparison")
    parser.add_argument("--tune", action="store_true", help="time other tiles instead")
    parser.add_argument("--minutes", type=float, default=9.0, help="of --tune, in all")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--smoke", action="store_true", help="everything once, small, batch 1")
    options = parser.parse_args(arguments)
    bench = _bench(options)
    torch.manual_seed(0)
    batches = [1] if options.smoke else options.batch
    if options.tune:
        tune(bench, max(batches), options.minutes * 60)
        return 0
    report: dict[str, object] = {}
    rows: list[dict[str, object]] = []
    for row in compare(bench, batches):
        print(json.dumps(row), flush=True)
        if not report:
            report = {**row, "rows": rows}
            continue
        rows.append(row)
        if options.out:  # what was measured outlives what fails later
            write_text(options.out, json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run(main))
