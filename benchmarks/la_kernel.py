"""The less-attention kernel on a GPU: against other ways to compute it, and the card's limits.

    python benchmarks/la_kernel.py --out la_kernel.json
    python benchmarks/la_kernel.py --tune

softmax(P S T^T + C) V for every stage of lavit_s with LA layers, in one run: eager PyTorch,
torch.compile(max-autotune), scaled_dot_product_attention with the transformed scores as its bias,
and the kernel. Medians of CUDA events, the ways in turn; between calls the L2 cache is overwritten,
because in a model other layers do that. `--tune` times other tiles for the kernel.

The floor of a call is the larger of two: the bytes that must be moved (S, V and constants read, the
result written) over the measured bandwidth of a copy, and the multiply-adds over the measured rate
of a large half-precision product.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from lavit_deploy import cli
from lavit_deploy.config import STAGES, lavit_s
from lavit_deploy.errors import UsageError
from lavit_deploy.files import write_text
from lavit_deploy.kernels import less_attention as operators
from lavit_deploy.kernels.tiles import Tile, tile_for

Operands = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Call = Callable[[], object]

REPEATS = 50
L2_BYTES = 256 << 20
"""More than the L2 cache of any card so far."""


def operands(batch: int, stage: int, scores: torch.dtype, values: torch.dtype) -> Operands:
    """Random S, P, T, C and V of one stage of lavit_s on the GPU."""
    config = lavit_s()
    n, m = config.tokens(stage), config.keys(stage)
    heads, dim = config.heads[stage], config.head_dim(stage)

    def noise(*size: int) -> Tensor:
        return torch.randn(*size, device="cuda")

    return (
        noise(batch, heads, n, m).to(scores),
        (torch.eye(n, device="cuda") + noise(n, n) / n).to(scores),
        torch.eye(m, device="cuda") + noise(m, m) / m,
        noise(n, m),
        noise(batch, m, heads, dim).transpose(1, 2).to(values),  # -> [B, H, M, d]
    )


def eager(s: Tensor, p: Tensor, t: Tensor, c: Tensor, v: Tensor) -> Tensor:
    """The same maths in PyTorch operators, products in the scores' type."""
    new_scores = (p @ s) @ t.to(s.dtype).T + c.to(s.dtype)
    return new_scores.float().softmax(-1).to(v.dtype) @ v


def by_bias(s: Tensor, p: Tensor, t: Tensor, c: Tensor, v: Tensor) -> Tensor:
    """Fused attention with queries and keys of zero, so that the bias alone makes the scores."""
    bias = ((p @ s) @ t.to(s.dtype).T + c.to(s.dtype)).to(v.dtype)
    queries = v.new_zeros(*s.shape[:3], v.shape[3])
    return functional.scaled_dot_product_attention(queries, torch.zeros_like(v), v, bias)


def milliseconds(calls: dict[str, Call]) -> dict[str, float]:
    """Median time of each call, in turn, with a cold L2 cache."""
    flush = torch.empty(L2_BYTES, dtype=torch.int8, device="cuda")
    for call in calls.values():  # compiles, and chooses algorithms
        for _ in range(3):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(REPEATS):
        for name, call in calls.items():
            flush.zero_()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            times[name].append(start.elapsed_time(end))
    return {name: statistics.median(found) for name, found in times.items()}


def limits() -> tuple[float, float]:
    """Bytes per second of a copy, and multiply-adds per second of a half-precision product."""
    source = torch.empty(1 << 30, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    size = 8192
    left = torch.randn(size, size, dtype=torch.float16, device="cuda")
    times = milliseconds({"copy": lambda: target.copy_(source), "product": lambda: left @ left})
    return 2 * source.numel() / times["copy"] * 1e3, size**3 / times["product"] * 1e3


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


def compare(batches: list[int]) -> dict[str, object]:
    """Every way, for every stage with LA layers, batch and pair of types."""
    bandwidth, rate = limits()
    rows = []
    kinds = [(torch.float16, torch.float16), (torch.bfloat16, torch.bfloat16)]
    kinds.append((torch.float32, torch.float16))
    stages = [stage for stage in range(STAGES) if lavit_s().la_start[stage]]
    for stage, batch, (scores, values) in itertools.product(stages, batches, kinds):
        given = operands(batch, stage, scores, values)
        compiled = torch.compile(eager, mode="max-autotune-no-cudagraphs")
        ways: dict[str, Callable[..., Tensor]] = {
            "eager": eager,
            "torch.compile(max-autotune)": compiled,
            "scaled_dot_product_attention": by_bias,
            "kernel": operators.less_attention,
        }
        times = milliseconds({name: partial(way, *given) for name, way in ways.items()})
        lowest = floor(given, bandwidth, rate)
        row = {
            "stage": stage + 1,
            "batch": batch,
            "scores": str(scores),
            "values": str(values),
            "milliseconds": times,
            "floor_milliseconds": lowest,
            "fraction_of_floor": lowest / times["kernel"],
            "error": {name: error(way(*given), given) for name, way in ways.items()},
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    return {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "copy_bytes_per_second": bandwidth,
        "multiply_adds_per_second": rate,
        "rows": rows,
    }


def candidates(tile: Tile) -> Iterator[Tile]:
    """Tiles around the one that is chosen now."""
    grid = itertools.product((16, 32, 64, 128), (16, 32, 64), (2, 4, 8), (1, 2, 3, 4))
    for block_n, block_k, warps, stages in grid:
        yield dataclasses.replace(
            tile, block_n=block_n, block_k=block_k, warps=warps, stages=stages
        )


def tune(batch: int) -> None:
    """Print the fastest tiles for each stage and pair of types."""
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import OutOfResources

    kinds = (("half", torch.float16), ("mixed", torch.float32))
    stages = [stage for stage in range(STAGES) if lavit_s().la_start[stage]]
    for stage, (types, scores) in itertools.product(stages, kinds):
        given = operands(batch, stage, scores, torch.float16)
        now = tile_for(given[0].shape[2], given[0].shape[3], types)
        found = []
        for tile in (now, *candidates(now)):
            try:
                time = milliseconds({"": partial(_launch, given, tile)})[""]
            except (OutOfResources, CompilationError):
                continue
            found.append((time, tile))
        print(f"stage {stage + 1}, {types}: now {found[0][0]:.4f} ms")
        for time, tile in sorted(found, key=lambda item: item[0])[:5]:
            print(f"  {time:.4f} ms  {tile}", flush=True)


def _launch(given: Operands, tile: Tile) -> None:
    operators.launch(*given, with_scores=False, tile=tile)


def main(arguments: list[str] | None = None) -> int:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64, 256])
    parser.add_argument("--out", type=Path, help="JSON file of the comparison")
    parser.add_argument("--tune", action="store_true", help="time other tiles instead")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        raise UsageError("this benchmark needs an NVIDIA GPU, and PyTorch with CUDA")
    torch.manual_seed(0)
    if options.tune:
        tune(max(options.batch))
        return 0
    report = compare(options.batch)
    if options.out:
        write_text(options.out, json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
