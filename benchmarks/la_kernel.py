"""The less-attention kernel on a GPU: against other ways to compute it, and the card's limits.

    python benchmarks/la_kernel.py --out la_kernel.json
    python benchmarks/la_kernel.py --tune --batch 256 --minutes 1
    TRITON_INTERPRET=1 python benchmarks/la_kernel.py --device cpu --smoke

softmax(P S T^T + C) V with S = Q K^T / sqrt(d), for every stage of lavit_s with LA layers:
- eager PyTorch and torch.compile, from S;
- scaled_dot_product_attention with the transformed scores as its bias;
- the factored form, scaled_dot_product_attention of P Q and T K with C as its bias: it reads Q and
  K, and is exact where nothing was added to S;
- a vanilla layer's attention, scaled_dot_product_attention of Q and K: what less-attention
  replaces, without its two projections;
- the kernel, and its code for any shape, which the TensorRT plugin carries.

Medians of CUDA events around CUDA graphs, the ways in turn, each graph over inputs that together
are larger than the L2 cache. P and T are away from the identity, C is not zero.

The floor of a call is the larger of two: the bytes that must be moved (S, V and constants read, the
result written) over the measured bandwidth of a copy, and the multiply-adds over the measured rate
of a large half-precision product.

`--tune` times other tiles for the kernel, for at most `--minutes`. `--device cpu --smoke` runs all
of this once, small, on a CPU in Triton's interpreter: whether the program works, not how fast
anything is.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from gpu_timing import launched, peaks, replayed
from torch import Tensor
from torch.nn import functional

from lavit_deploy.common import command_line
from lavit_deploy.common.atomic_files import write_text
from lavit_deploy.common.environment import Environment
from lavit_deploy.common.errors import UsageError
from lavit_deploy.kernels import less_attention as operators
from lavit_deploy.kernels.tile_sizes import Tile, Types, tile_for
from lavit_deploy.model.config import LaViTConfig, lavit_s


class Kinds(NamedTuple):
    """Types of scores, of values and of P."""

    scores: torch.dtype
    values: torch.dtype
    queries: torch.dtype

    def __str__(self) -> str:
        return ", ".join(str(kind).removeprefix("torch.") for kind in self)


class Operands(NamedTuple):
    """Of one layer; S is Q K^T / sqrt(d) in the scores' type."""

    scores: Tensor
    p: Tensor
    t: Tensor
    c: Tensor
    v: Tensor
    q: Tensor
    k: Tensor


@dataclasses.dataclass(frozen=True)
class Bench:
    """Where and how large.

    Attributes:
        device: "cuda", or "cpu" for a trial.
        image_size: pixels.
        repeats: timed replays of each way.
        cache_bytes: of one way's inputs together; more than the L2 cache of any card so far.
        most_sets: of inputs.
        copy_bytes: copied to measure the bandwidth.
        size: of the square product that measures the arithmetic.
        stages: how many, of those of lavit_s with LA layers, the last ones.
        kinds: types of scores, values and P.
    """

    device: str = "cuda"
    image_size: int = 224
    repeats: int = 20
    cache_bytes: int = 256 << 20
    most_sets: int = 16
    copy_bytes: int = 1 << 30
    size: int = 8192
    stages: int = 2
    kinds: tuple[Kinds, ...] = (
        Kinds(torch.bfloat16, torch.bfloat16, torch.bfloat16),
        Kinds(torch.bfloat16, torch.bfloat16, torch.float32),
        Kinds(torch.float32, torch.bfloat16, torch.float32),
        Kinds(torch.float16, torch.float16, torch.float32),
    )

    @property
    def config(self) -> LaViTConfig:
        """Of lavit_s at this size."""
        return dataclasses.replace(lavit_s(), image_size=(self.image_size, self.image_size))

    def chosen_stages(self) -> list[int]:
        """0-based stages with LA layers."""
        return [stage for stage, start in enumerate(self.config.la_start) if start][-self.stages :]


# The interpreter takes half-precision products only, and seconds for a large stage.
SMOKE = {
    "repeats": 1,
    "cache_bytes": 1,
    "copy_bytes": 1 << 20,
    "size": 64,
    "stages": 1,
    "kinds": (Kinds(torch.float16, torch.float16, torch.float16),),
}


def operands(bench: Bench, batch: int, stage: int, kinds: Kinds) -> Operands:
    """Random ones of one stage of lavit_s: P and T away from the identity, C of the size of S."""
    config = bench.config
    n, m = config.tokens(stage), config.keys(stage)
    heads, dim = config.heads[stage], config.head_dim(stage)

    def noise(*size: int) -> Tensor:
        return torch.randn(*size, device=bench.device)

    def tokens(count: int) -> Tensor:
        return noise(batch, count, heads, dim).transpose(1, 2).to(kinds.values)  # -> [B, H, ., d]

    q, k = tokens(n), tokens(m)
    scores = (q @ k.transpose(-1, -2)) * dim**-0.5  # [B, H, N, M]
    return Operands(
        scores.to(kinds.scores).contiguous(),
        (torch.eye(n, device=bench.device) + noise(n, n) / n**0.5).to(kinds.queries),
        torch.eye(m, device=bench.device) + noise(m, m) / m**0.5,
        noise(n, m),
        tokens(m),
        q,
        k,
    )


def kernel(given: Operands, *, any_shape: bool = False, tile: Tile | None = None) -> Tensor:
    """The kernel, as the operator launches it; on a CPU in Triton's interpreter."""
    return operators.launch(*given[:5], with_scores=False, tile=tile, any_shape=any_shape)[0]


def transformed(given: Operands) -> Tensor:
    """P S T^T + C, products in the scores' type: [B, H, N, M]."""
    s, kind = given.scores, given.scores.dtype
    return (given.p.to(kind) @ s) @ given.t.to(kind).T + given.c.to(kind)


def eager(given: Operands) -> Tensor:
    """The same maths in PyTorch operators."""
    return transformed(given).float().softmax(-1).to(given.v.dtype) @ given.v


def by_bias(given: Operands) -> Tensor:
    """Fused attention with queries and keys of zero, so that the bias alone makes the scores."""
    bias = transformed(given).to(given.v.dtype)
    queries = given.v.new_zeros(*given.scores.shape[:3], given.v.shape[3])
    return functional.scaled_dot_product_attention(
        queries, torch.zeros_like(given.v), given.v, bias
    )


def factored(given: Operands) -> Tensor:
    """Fused attention of P Q and T K, with C as its bias."""
    kind = given.v.dtype
    queries, keys = given.p.to(kind) @ given.q, given.t.to(kind) @ given.k
    return functional.scaled_dot_product_attention(queries, keys, given.v, given.c.to(kind))


def vanilla(given: Operands) -> Tensor:
    """Attention as it was; another function, so its error says nothing."""
    return functional.scaled_dot_product_attention(given.q, given.k, given.v)


def floor(given: Operands, bandwidth: float, rate: float) -> float:
    """Milliseconds that no implementation can beat on this card."""
    s, v = given.scores, given.v
    b, h, n, m = s.shape
    dim = v.shape[3]
    read = sum(item.numel() * item.element_size() for item in given[:5])
    moved = read + b * h * n * dim * v.element_size()
    multiplied = b * h * (n * n * m + n * m * m + n * m * dim)
    return max(moved / bandwidth, multiplied / rate) * 1e3


def error(found: Tensor, given: Operands) -> float:
    """Largest difference from float64, over the largest result; the first pictures only.

    S is taken as it is given, so what its rounding costs is in no way's error but the factored
    one's, which does not round it.
    """
    s, p, t, c, v = (item.double() for item in given[:5])
    wanted = (p @ s[:2] @ t.T + c).softmax(-1) @ v[:2]
    return ((found[:2].double() - wanted).abs().max() / wanted.abs().max()).item()


WAYS: dict[str, Callable[[Operands], Tensor]] = {
    "eager": eager,
    "torch.compile": eager,
    "bias": by_bias,
    "factored": factored,
    "kernel": kernel,
    "kernel, any shape": partial(kernel, any_shape=True),
    "vanilla attention": vanilla,
}


def compare(bench: Bench, batches: list[int]) -> Iterator[dict[str, object]]:
    """Every way, for every stage with LA layers, batch and pair of types; one row for each.

    The first row is about the card.
    """
    bandwidth, rate = peaks(bench.device, torch.bfloat16, bench.size, bench.copy_bytes)
    card = torch.cuda.get_device_name() if bench.device == "cuda" else Environment.here().cpu
    yield {
        "device": card,
        "torch": torch.__version__,
        "image_size": bench.image_size,
        "copy_bytes_per_second": bandwidth,
        "multiply_adds_per_second": rate,
    }
    for stage, batch, kinds in itertools.product(bench.chosen_stages(), batches, bench.kinds):
        first = operands(bench, batch, stage, kinds)
        size = sum(item.numel() * item.element_size() for item in first)
        count = min(max(bench.cache_bytes // size, 1), bench.most_sets)
        sets = [first, *(operands(bench, batch, stage, kinds) for _ in range(count - 1))]
        # PyTorch gives up on a function that it has compiled for many shapes, silently.
        torch.compiler.reset()
        ways = WAYS | {"torch.compile": torch.compile(eager, dynamic=False)}
        times = replayed(
            bench.device,
            {name: [partial(way, given) for given in sets] for name, way in ways.items()},
            bench.repeats,
        )
        lowest = floor(first, bandwidth, rate)
        yield {
            "stage": stage + 1,
            "batch": batch,
            "types": str(kinds),
            "milliseconds": times,
            "launch_milliseconds": {
                name: launched(bench.device, partial(way, first)) for name, way in ways.items()
            },
            "floor_milliseconds": lowest,
            "fraction_of_floor": lowest / times["kernel"],
            "error": {
                name: error(way(first), first)
                for name, way in ways.items()
                if name != "vanilla attention"
            },
        }


def line(row: dict[str, object]) -> str:
    """A row for people: microseconds."""
    times, launches = row["milliseconds"], row["launch_milliseconds"]
    cells = "  ".join(f"{name} {took * 1e3:.1f}" for name, took in times.items())
    return (
        f"stage {row['stage']} batch {row['batch']} [{row['types']}] us: {cells}; floor "
        f"{row['floor_milliseconds'] * 1e3:.1f}; launch of the kernel "
        f"{launches['kernel'] * 1e3:.0f}; errors "
        + " ".join(f"{name} {one:.1e}" for name, one in row["error"].items())
    )


def candidates(tile: Tile) -> Iterator[Tile]:
    """Tiles around the one that is chosen now, the likeliest first."""
    grid = itertools.product((64, 32, 128, 16), (64, 32, 16), (4, 8, 2), (3, 2, 4, 1))
    for block_n, block_k, warps, stages in grid:
        yield dataclasses.replace(
            tile, block_n=block_n, block_k=block_k, warps=warps, stages=stages
        )


def tune(bench: Bench, batch: int, seconds: float) -> None:
    """Print the fastest tiles for each stage and kind of types.

    Args:
        bench: where.
        batch: pictures.
        seconds: how long in all; every stage and pair of types gets its share.
    """
    from triton.errors import TritonError

    pairs = [(stage, kinds) for stage in bench.chosen_stages() for kinds in bench.kinds]
    for stage, kinds in pairs:
        given = operands(bench, batch, stage, kinds)
        types: Types = "half" if kinds.scores == kinds.values else "mixed"
        now = tile_for(given.scores.shape[2], given.scores.shape[3], types)
        end = time.monotonic() + seconds / len(pairs)
        found = [(_took(bench, given, now), now)]
        skipped = tried = 0
        for tile in candidates(now):
            if time.monotonic() > end:
                skipped += 1
                continue
            tried += 1
            try:
                took = _took(bench, given, tile)
            except (TritonError, RuntimeError) as reason:
                # Too much shared memory, or a tile that the compiler does not take.
                print(f"  no {tile}: {str(reason).splitlines()[0]}", flush=True)
                continue
            found.append((took, tile))
        print(
            f"stage {stage + 1} [{kinds}]: now {found[0][0] * 1e3:.1f} us; "
            f"{tried} other tiles tried, {skipped} not for lack of time"
        )
        for took, tile in sorted(found, key=lambda item: item[0])[:4]:
            print(
                f"  {took * 1e3:.1f} us  rows {tile.block_n} inner {tile.block_k} "
                f"warps {tile.warps} stages {tile.stages}",
                flush=True,
            )


def _took(bench: Bench, given: Operands, tile: Tile) -> float:
    calls = [partial(kernel, given, tile=tile)] * (1 if bench.device == "cpu" else 10)
    return replayed(bench.device, {"": calls}, min(bench.repeats, 5))[""]


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
    bench = Bench(options.device, options.image_size)
    return dataclasses.replace(bench, **SMOKE) if options.smoke else bench


def main(arguments: list[str] | None = None) -> int:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64, 256])
    parser.add_argument("--image-size", type=int, default=224)
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
    with torch.inference_mode():
        for row in compare(bench, batches):
            if not report:
                report = {**row, "rows": rows}
                print(json.dumps(row), flush=True)
                continue
            rows.append(row)
            print(line(row), flush=True)
            if options.out:  # what was measured outlives what fails later
                write_text(options.out, json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run(main))
