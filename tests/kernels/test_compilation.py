"""The kernels, compiled for GPUs as Triton's launcher would: it needs no GPU for that."""

from __future__ import annotations

import pytest

from lavit_deploy.kernels.mlp import WIDTHS
from lavit_deploy.kernels.tile_sizes import mlp_tile, tile_for

triton = pytest.importorskip("triton", reason="Triton is not installed")

SHARED_BYTES = {80: 163 << 10, 86: 99 << 10, 90: 227 << 10, 120: 99 << 10}
"""Most shared memory of one block; 8.9 has as much as 8.6, and its instructions."""


def compiled(kernel, types, constants, target, *, warps, stages):
    """Compile for a compute capability (ten times); constants are known to the compiler."""
    from triton.backends.compiler import GPUTarget

    names = kernel.arg_names
    source = triton.compiler.ASTSource(
        kernel,
        {name: "constexpr" if name in constants else types[name] for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
    )
    options = {"num_warps": warps, "num_stages": stages}
    return triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)


LESS_ATTENTION = {
    **dict.fromkeys(("scores", "queries", "values", "out", "new_scores"), "*fp16"),
    **dict.fromkeys(("keys", "constant"), "*fp32"),
    **dict.fromkeys(("n", "m", "dim", "heads", "write_scores"), "i32"),
    **dict.fromkeys(("value_batch", "value_head", "value_row"), "i32"),
    **dict.fromkeys(("out_batch", "out_head", "out_row"), "i32"),
}
ANY_SHAPE = {"TOKENS": 0, "KEYS": 0, "CHANNELS": 0}


@pytest.mark.parametrize(
    "ones",
    [
        ("write_scores", "heads"),
        tuple(name for name, kind in LESS_ATTENTION.items() if kind == "i32"),
    ],
    ids=["one head, scores written", "all"],
)
def test_arguments_of_one_which_triton_makes_constants_compile(ones):
    """The plugin's kernels take every number as an argument; PyTorch's launcher does not."""
    from lavit_deploy.kernels.less_attention_triton import less_attention_kernel

    tile = tile_for(1, 1, "half")
    constants = tile.constants() | dict.fromkeys(ones, 1) | ANY_SHAPE
    made = compiled(
        less_attention_kernel, LESS_ATTENTION, constants, 90, warps=tile.warps, stages=tile.stages
    )
    assert made.asm["cubin"].startswith(b"\x7fELF")


@pytest.mark.parametrize("target", SHARED_BYTES)
@pytest.mark.parametrize("queries", ["*bf16", "*fp32"])
def test_code_for_one_shape_fits_into_every_gpu(target, queries):
    from lavit_deploy.kernels.less_attention_triton import less_attention_kernel

    halves = dict.fromkeys(("scores", "values", "out", "new_scores"), "*bf16")
    types = LESS_ATTENTION | halves | {"queries": queries}
    tile = tile_for(196, 49, "half")
    constants = tile.constants() | {"TOKENS": 196, "KEYS": 49, "CHANNELS": 64}
    made = compiled(
        less_attention_kernel, types, constants, target, warps=tile.warps, stages=tile.stages
    )
    assert 0 < made.metadata.shared <= SHARED_BYTES[target]


@pytest.mark.parametrize("target", SHARED_BYTES)
@pytest.mark.parametrize("dim", WIDTHS)
@pytest.mark.parametrize("weights", ["fp16", "fp32"])
def test_the_mlp_fits_into_every_gpus_shared_memory(target, dim, weights):
    from lavit_deploy.kernels.mlp_triton import fused_mlp_kernel

    weight = f"*{weights}"
    tile = mlp_tile(dim, half=weights == "fp16")
    types = {"x": "*fp32", "out": "*fp32", "rows": "i32", "hidden": "i32", "eps": "fp32"}
    types |= dict.fromkeys(("weight1", "bias1", "weight2", "bias2"), weight)
    constants = {"DIM": dim, **tile.constants()}
    made = compiled(
        fused_mlp_kernel, types, constants, target, warps=tile.warps, stages=tile.stages
    )
    assert 0 < made.metadata.shared <= SHARED_BYTES[target]
