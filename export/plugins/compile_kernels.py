"""Compile the less-attention kernel ahead of time, for the plugin to embed; needs no GPU.

    python -m lavit_deploy.export.plugins.compile_kernels --targets 80 90 --out build/kernels

writes `kernels.bin`, all machine code in one file, and `kernel_table.inc`, a C++ table of what lies
where in it. CMake runs this; `--verbose` prints what the compiler made of each kernel.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavit_deploy.common import command_line
from lavit_deploy.common.atomic_files import atomic_path
from lavit_deploy.common.errors import ExportError, MissingDependencyError, UsageError
from lavit_deploy.kernels.tile_sizes import FEW_KEYS, SOME_KEYS, Tile, Types, tiles

TARGETS = (80, 86, 89, 90, 120)
"""Compute capabilities, ten times: A100, RTX 30, RTX 40 and L4, H100 and H200, RTX 50."""

SHARED_BYTES = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 120: 99 << 10}
"""Most shared memory of one block, by target (CUDA C++ Programming Guide, compute capabilities)."""

ENTRY = "less_attention_kernel"
POINTERS = ("scores", "queries", "keys", "constant", "values", "out", "new_scores")
NUMBERS = (
    "n",
    "m",
    "dim",
    "heads",
    "value_batch",
    "value_head",
    "value_row",
    "out_batch",
    "out_head",
    "out_row",
    "write_scores",
)
"""Arguments of the kernel; `kernel_library.cpp` passes them in this order."""

SIZES = ("TOKENS", "KEYS", "CHANNELS")
"""What a kernel for one shape alone is told: 0 here, since the plugin takes every shape."""

_ALIGNMENT = 16
"""Bytes; of every address that is passed, and of every kernel in the file."""

_ENUM = {"fp16": "kHALF", "bf16": "kBF16", "fp32": "kFLOAT"}


@dataclass(frozen=True)
class KernelVariant:
    """One kernel to compile.

    Attributes:
        target: compute capability, ten times.
        scores: element type of the scores, as Triton calls it.
        values: element type of the values.
        tile: the other constants.
    """

    target: int
    scores: str
    values: str
    tile: Tile

    @property
    def most_keys(self) -> int:
        """Largest number of keys that it may be used for."""
        if not self.tile.single:
            return 2**31 - 1
        return FEW_KEYS if self.tile.block_m == FEW_KEYS else SOME_KEYS


@dataclass(frozen=True)
class Compiled:
    """Machine code of one variant.

    Attributes:
        variant: what was compiled.
        cubin: an ELF file for the GPU.
        shared: dynamic shared memory, bytes.
        registers: of one thread.
        stack: bytes of one thread; more than 0 where registers did not suffice.
    """

    variant: KernelVariant
    cubin: bytes
    shared: int
    registers: int
    stack: int


def variants(target: int) -> Iterator[KernelVariant]:
    """All kernels of one target; of several that fit a shape, the most special comes first."""
    kinds: tuple[tuple[Types, str, str], ...] = (
        ("half", "fp16", "fp16"),
        ("half", "bf16", "bf16"),
        ("mixed", "fp32", "fp16"),
        ("mixed", "fp32", "bf16"),
        ("full", "fp32", "fp32"),
    )
    for types, scores, values in kinds:
        for tile in tiles(types):
            yield KernelVariant(target, scores, values, tile)


def compile_variant(variant: KernelVariant) -> Compiled:
    """Compile one kernel with Triton.

    Raises:
        MissingDependencyError: Triton is not installed.
        ExportError: the kernel's arguments are not those that the plugin passes, or it wants more
            shared memory than the GPU has.
    """
    try:
        import triton
        from triton.backends.compiler import GPUTarget
    except ImportError:
        raise MissingDependencyError(
            "triton", extra="plugin", purpose="compile the plugin's kernels"
        ) from None
    target = GPUTarget("cuda", variant.target, 32)
    options = {
        "num_warps": variant.tile.warps,
        "num_stages": variant.tile.stages,
        "enable_fp_fusion": True,
    }
    with triton.knobs.compilation.scope():
        triton.knobs.compilation.disable_line_info = True  # three quarters of a file, else
        compiled = triton.compile(_source(variant), target=target, options=options)
    _check_arguments(compiled.asm["ptx"])
    shared = compiled.metadata.shared
    if shared > SHARED_BYTES[variant.target]:
        raise ExportError(
            f"{variant} wants {shared} bytes of shared memory, sm_{variant.target} has "
            f"{SHARED_BYTES[variant.target]}"
        )
    registers, stack = _resources(compiled.asm["cubin"])
    return Compiled(variant, compiled.asm["cubin"], shared, registers, stack)


def _source(variant: KernelVariant) -> Any:  # noqa: ANN401 # Triton publishes no types
    from triton.compiler import ASTSource

    from lavit_deploy.kernels.less_attention_triton import less_attention_kernel

    tile = variant.tile
    constants = tile.constants() | dict.fromkeys(SIZES, 0)
    scores, values = f"*{variant.scores}", f"*{variant.values}"
    types = (scores, scores, "*fp32", "*fp32", values, values, scores)
    signature = dict(zip(POINTERS, types, strict=True))
    signature |= dict.fromkeys(NUMBERS, "i32") | dict.fromkeys(constants, "constexpr")
    names = list(signature)
    if names != less_attention_kernel.arg_names:
        raise ExportError(
            f"the kernel takes {less_attention_kernel.arg_names}, expected {names}: "
            "the plugin's call and its kernel have parted"
        )
    return ASTSource(
        less_attention_kernel,
        signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(index,): [["tt.divisibility", _ALIGNMENT]] for index in range(len(POINTERS))},
    )


def _check_arguments(ptx: str) -> None:
    """Triton appends addresses of scratch memory, which the plugin passes as null."""
    entry = re.search(rf"\.entry\s+{ENTRY}\s*\((.*?)\)", ptx, re.DOTALL)
    found = re.findall(r"\.param \.(\w+)", entry.group(1)) if entry else []
    wanted = ["u64"] * len(POINTERS) + ["u32"] * len(NUMBERS) + ["u64"] * 2
    if found != wanted:
        raise ExportError(
            f"this version of Triton compiles {ENTRY} to the arguments {found}, "
            f"expected {wanted}; triton 3.9 is known to fit"
        )


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack of one thread, as NVIDIA's cuobjdump reads them."""
    import triton.backends.nvidia

    tool = Path(next(iter(triton.backends.nvidia.__path__)), "bin", "cuobjdump")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        listing = subprocess.run(  # noqa: S603 # Triton's own copy of the tool
            [tool, "-res-usage", file], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", listing)
    if found is None:
        raise ExportError(f"cuobjdump does not tell a kernel's registers: {listing!r}")
    return int(found.group(1)), int(found.group(2))


def write(compiled: Sequence[Compiled], folder: Path) -> None:
    """Write `kernels.bin` and `kernel_table.inc`.

    Args:
        compiled: the kernels, in the order in which the plugin looks for one.
        folder: where to write; made if missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    blob, rows = bytearray(), []
    for item in compiled:
        blob += bytes(-len(blob) % _ALIGNMENT)
        tile = item.variant.tile
        rows.append(
            f"{{{item.variant.target}, DataType::{_ENUM[item.variant.scores]}, "
            f"DataType::{_ENUM[item.variant.values]}, {item.variant.most_keys}, {tile.align_n}, "
            f"{tile.block_n}, {tile.block_d}, {tile.warps * 32}, {item.shared}, "
            f"{len(blob)}, {len(item.cubin)}}},"
        )
        blob += item.cubin
    with atomic_path(folder / "kernels.bin") as path:
        path.write_bytes(blob)
    with atomic_path(folder / "kernel_table.inc") as path:
        path.write_text("\n".join(rows) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--targets", type=int, nargs="+", default=TARGETS, metavar="CAPABILITY")
    parser.add_argument("--out", type=Path, required=True, help="folder of the two files")
    parser.add_argument("--verbose", action="store_true", help="print registers, stack, memory")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.targets) - set(TARGETS))
    if unknown:
        raise UsageError(f"--targets {unknown}: expected some of {list(TARGETS)}")
    compiled = []
    for target in options.targets:
        for variant in variants(target):
            item = compile_variant(variant)
            compiled.append(item)
            if options.verbose:
                print(_row(item), flush=True)
    write(compiled, options.out)
    return 0


def _row(item: Compiled) -> str:
    variant, tile = item.variant, item.variant.tile
    keys = f"<= {variant.most_keys}" if tile.single else "any"
    return (
        f"sm_{variant.target:<4} S {variant.scores} V {variant.values} keys {keys:<6} "
        f"N % {tile.align_n} = 0, block {tile.block_n:>2}: {item.registers:>3} registers, "
        f"{item.stack} bytes of stack, {item.shared / 1024:.0f} KiB shared, "
        f"{tile.warps} warps, {len(item.cubin) / 1024:.0f} KiB"
    )


if __name__ == "__main__":
    sys.exit(command_line.run(main))
