"""How the kernels cut their work into tiles: chosen from the shapes alone, without Triton.

The operators choose at every call, the plugin among what was compiled ahead of time; both by these
functions, so both run the same code for the same shapes.

The numbers were chosen by what the compiler makes of them: no registers spilled, and several
blocks of threads on a multiprocessor (`export/plugins/compile_kernels.py` prints both). Those for
half-precision scores and few keys were timed on an H200, where 64 rows take the tensor cores' wide
products (docs/reports/la-kernel). Float32 scores would gain by 64 rows there too, but spill
registers on every other card. `benchmarks/la_kernel.py --tune` times others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

ALIGNED = 4
"""Rows of this many numbers or a multiple are read in vectors; others number by number."""

FEW_KEYS, SOME_KEYS = 64, 256
"""Up to so many keys the first and the second kind of tile hold all of a row of P S."""

Types = Literal["half", "mixed", "full"]
"""Scores and values in half precision; scores in float32 and values in half; both in float32."""


@dataclass(frozen=True)
class Tile:
    """Constants that the less-attention kernel is compiled with.

    Attributes:
        block_n: rows of queries of one program.
        block_k: rows of scores read at a time while P S is summed.
        block_m: keys whose P S is held at a time.
        block_j: keys of one step of the softmax.
        block_d: channels of values of one program.
        align_n: what the number of queries N is known to be a multiple of.
        single: whether block_m holds all keys, so that P S is computed once and kept.
        products: what float32 operands of P S and (P S) T^T are multiplied in.
        warps: warps of one program.
        stages: depth of the software pipeline of loads.
    """

    block_n: int
    block_k: int
    block_m: int
    block_j: int
    block_d: int
    align_n: int
    single: bool
    products: str
    warps: int
    stages: int

    def constants(self) -> dict[str, int | bool | str]:
        """The kernel's `constexpr` arguments by name; warps and stages are options of a launch."""
        return {
            "BLOCK_N": self.block_n,
            "BLOCK_K": self.block_k,
            "BLOCK_M": self.block_m,
            "BLOCK_J": self.block_j,
            "BLOCK_D": self.block_d,
            "ALIGN_N": self.align_n,
            "SINGLE": self.single,
            "PRODUCTS": self.products,
        }


def tile_for(tokens: int, keys: int, types: Types) -> Tile:
    """The tile for scores of a shape.

    Up to 64 keys (every stage of every preset at 224 pixels has 49 or 50) or up to 256 (ViT
    plug-ins have 197), the rows of P S that a program needs stay in registers. Beyond that they are
    computed again for every 64 keys, which is correct for any number and slow for a large one.

    Args:
        tokens: N.
        keys: M.
        types: of scores and values.
    """
    if keys <= FEW_KEYS:
        return _few_keys(types, ALIGNED if tokens % ALIGNED == 0 else 1)
    return _some_keys(types) if keys <= SOME_KEYS else _many_keys(types)


def tiles(types: Types) -> Iterator[Tile]:
    """Every tile that `tile_for` can choose, the most special one first."""
    yield _few_keys(types, ALIGNED)
    yield _few_keys(types, 1)
    yield _some_keys(types)
    yield _many_keys(types)


_PRODUCTS = {"half": "tf32", "mixed": "bf16x3", "full": "tf32x3"}


def _few_keys(types: Types, align_n: int) -> Tile:
    rows, inner, stages = {"half": (64, 64, 2), "mixed": (32, 16, 2), "full": (16, 16, 2)}[types]
    return Tile(
        block_n=rows,
        block_k=inner,
        block_m=FEW_KEYS,
        block_j=FEW_KEYS,
        block_d=64,
        align_n=align_n,
        single=True,
        products=_PRODUCTS[types],
        warps=4,
        stages=stages,
    )


def _some_keys(types: Types) -> Tile:
    return Tile(
        block_n=32 if types == "half" else 16,
        block_k=32,
        block_m=SOME_KEYS,
        block_j=32,
        block_d=64,
        align_n=1,
        single=True,
        products=_PRODUCTS[types],
        warps=8,
        stages=2,
    )


def _many_keys(types: Types) -> Tile:
    return Tile(
        block_n=64 if types == "half" else 16,
        block_k=32 if types == "half" else 16,
        block_m=64,
        block_j=64,
        block_d=64,
        align_n=1,
        single=False,
        products=_PRODUCTS[types],
        warps=8,
        stages=2,
    )


@dataclass(frozen=True)
class MlpTile:
    """Constants that the MLP kernel is compiled with.

    Attributes:
        block_rows: tokens of one program.
        block_hidden: hidden channels of one step.
        polynomial: whether GELU is a polynomial (`mlp_triton.gelu_of_half`) and not by erf.
        warps: warps of one program.
        stages: depth of the software pipeline of loads.
    """

    block_rows: int
    block_hidden: int
    polynomial: bool
    warps: int
    stages: int

    def constants(self) -> dict[str, int | bool]:
        """The kernel's `constexpr` arguments by name, but for the width."""
        return {
            "BLOCK_ROWS": self.block_rows,
            "BLOCK_HIDDEN": self.block_hidden,
            "POLYNOMIAL": self.polynomial,
        }


def mlp_tile(dim: int, *, half: bool) -> MlpTile:
    """The MLP kernel's tile for D channels, and weights in half precision or float32."""
    if not half:  # every number takes twice the shared memory
        return MlpTile(block_rows=32, block_hidden=32, polynomial=False, warps=4, stages=2)
    if dim <= 64:
        return MlpTile(block_rows=128, block_hidden=64, polynomial=True, warps=8, stages=3)
    return MlpTile(block_rows=128, block_hidden=64, polynomial=True, warps=8, stages=2)
