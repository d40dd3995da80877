"""The operator on a CPU, and its Triton kernel under the interpreter (`interpreted.py`)."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lavit_deploy.common.errors import UsageError
from lavit_deploy.kernels.less_attention import (
    launch,
    less_attention,
    less_attention_with_scores,
)
from lavit_deploy.kernels.tile_sizes import tile_for, tiles
from lavit_deploy.model.config import PRESETS, preset

pytestmark = pytest.mark.slow


class Shape(NamedTuple):
    images: int
    heads: int
    tokens: int
    keys: int
    dim: int


def stages_of_presets():
    """Every stage's N, M and d; one picture and one head, since programs do not see each other."""
    shapes = set()
    for name in PRESETS:
        config = preset(name)
        for stage in range(4):
            n, m, d = config.tokens(stage), config.keys(stage), config.head_dim(stage)
            shapes.add(Shape(1, 1, n, m, d))
            if stage == 3:  # with a class token
                shapes.add(Shape(1, 1, n + 1, m + 1, d))
    return sorted(shapes)


ODD = [
    Shape(2, 3, 1, 1, 1),
    Shape(1, 1, 197, 197, 64),
    Shape(2, 1, 65, 64, 64),
    Shape(1, 2, 64, 65, 33),
    Shape(1, 1, 31, 257, 80),
    Shape(1, 1, 5, 300, 129),
    Shape(3, 2, 33, 7, 16),
]
"""Around the edges of tiles: one, one less, one more."""

TYPES = {
    "float16": (torch.float16, torch.float16),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
    "float32 scores, float16 values": (torch.float32, torch.float16),
    "float32 scores, bfloat16 values": (torch.float32, torch.bfloat16),
    "float32": (torch.float32, torch.float32),
    "float16, exact queries": (torch.float16, torch.float16, torch.float32),
    "bfloat16, exact queries": (torch.bfloat16, torch.bfloat16, torch.float32),
}
"""Of scores and values; of queries too where it is not that of scores."""

SCORE_TOLERANCES = {
    # Of the sum of absolute products |P| |S| |T|, since rounding does not know of cancellation.
    # Half precision: U and T lose up to 2^-10 each in TF32, the result 2^-10, or 2^-7 in bfloat16,
    # which the interpreter cuts off instead of rounding.
    "float16": 3 * 2**-10,
    "bfloat16": 2 * 2**-10 + 2**-7,
    # Two bfloat16 hold 16 bits: four operands lose 2^-17, three products drop 2^-16 each.
    "float32 scores, float16 values": 2**-13,
    "float32 scores, bfloat16 values": 2**-13,
    # Two TF32 hold 21 bits.
    "float32": 2**-18,
    # P in two terms loses nothing that matters: U, T and the result are what is rounded.
    "float16, exact queries": 3 * 2**-10,
    "bfloat16, exact queries": 2 * 2**-10 + 2**-7,
}


def operands(shape, types, *, scale=1.0):
    """Scores, P, T, C and values; P and T near the identity, as trained ones are."""
    b, h, n, m, d = shape
    generator = torch.Generator().manual_seed(n * 1000 + m)

    def noise(*size):
        return torch.randn(*size, generator=generator)

    scores, values, queries = (*types, types[0])[:3]
    return (
        (scale * noise(b, h, n, m)).to(scores),
        (torch.eye(n) + noise(n, n) / n).to(queries),
        torch.eye(m) + noise(m, m) / m,
        noise(n, m),
        noise(b, m, h, d).transpose(1, 2).to(values),  # [B, M, H, d] -> [B, H, M, d]
    )


def exact(scores, queries, keys, constant, values):
    """softmax(P S T^T + C) V and P S T^T + C in float64, of the operands as they are rounded."""
    s, p, t, c, v = (item.double() for item in (scores, queries, keys, constant, values))
    new_scores = p @ s @ t.T + c
    return new_scores.softmax(-1) @ v, new_scores


def magnitude(scores, queries, keys, constant, values):
    """|P| |S| |T|^T + |C|: what the rounding of A is relative to."""
    s, p, t, c = (item.double().abs() for item in (scores, queries, keys, constant))
    return p @ s @ t.T + c


CASES = [
    *((name, shape, 1.0) for shape in ODD for name in TYPES),
    *(("float16", shape, scale) for shape in ODD for scale in (1e-3, 30.0)),
    *(("float16", shape, 1.0) for shape in stages_of_presets()),
    *((name, shape, 1.0) for shape in stages_of_presets() if shape.tokens < 200 for name in TYPES),
]
INTERPRETED = [case for case in CASES if case[1].tokens < 1000]
"""The interpreter would take a third of a minute for the first stage alone, where no preset has
less-attention. Its blocks are those of the second, fewer times; a GPU runs both."""


def test_the_stage_that_is_not_interpreted_runs_the_tile_of_the_next_one():
    (first,) = {shape for _, shape, _ in CASES} - {shape for _, shape, _ in INTERPRETED}
    second = first._replace(tokens=784)
    assert second in {shape for _, shape, _ in INTERPRETED}
    assert tile_for(first.tokens, first.keys, "half") == tile_for(784, first.keys, "half")


@pytest.fixture(scope="module")
def kernel_results(interpret):
    calls = [
        ("less_attention", operands(shape, TYPES[name], scale=scale), {"with_scores": True})
        for name, shape, scale in INTERPRETED
    ]
    return dict(zip(INTERPRETED, interpret(calls), strict=True))


@pytest.mark.parametrize("case", INTERPRETED, ids=str)
def test_the_kernel_computes_what_float64_does(kernel_results, case):
    name, shape, scale = case
    given_operands = operands(shape, TYPES[name], scale=scale)
    found, found_scores = kernel_results[case]
    wanted, wanted_scores = exact(*given_operands)
    size = magnitude(*given_operands)
    score_error = (found_scores.double() - wanted_scores).abs()
    assert found.dtype == TYPES[name][1]
    assert found_scores.dtype == TYPES[name][0]
    assert (score_error / size).max() < SCORE_TOLERANCES[name]
    # An error e of a score changes its share by a factor of exp(e) at most, numerator and
    # denominator each; shares and result are rounded to the values' type besides.
    drift = torch.expm1(2 * SCORE_TOLERANCES[name] * size.amax(dim=(-1, -2), keepdim=True))
    largest = given_operands[4].double().abs().amax(dim=(-1, -2), keepdim=True)
    rounding = 2 * torch.finfo(TYPES[name][1]).eps + 1e-5
    assert ((found.double() - wanted).abs() <= (drift + rounding) * largest).all()


def test_the_kernel_says_no_nan_at_extreme_scores(interpret):
    calls = []
    for types in TYPES.values():
        extreme = operands(Shape(1, 2, 50, 49, 64), types)
        largest = 60000.0 if types[0] == torch.float16 else 1e30
        extreme[0].fill_(largest)
        extreme[0][..., ::2] = -largest
        calls.append(("less_attention", extreme, {"with_scores": True}))
    for found, found_scores in interpret(calls):
        assert found.isfinite().all()
        assert found_scores.isfinite().all()


def test_the_kernel_leaves_scores_alone_that_are_not_asked_for(interpret):
    given_operands = operands(Shape(2, 2, 33, 49, 64), TYPES["float16"])
    (without, nothing), (mixed, _) = interpret(
        [("less_attention", given_operands, {"with_scores": wanted}) for wanted in (False, True)]
    )
    assert torch.equal(without, mixed)
    assert nothing.numel() == 1


def test_values_and_results_lie_in_memory_as_joined_heads(interpret):
    given_operands = operands(Shape(2, 3, 16, 9, 32), TYPES["float32"])
    ((found, _),) = interpret([("less_attention", given_operands, {"with_scores": False})])
    for result in (found, less_attention(*given_operands)):
        assert result.transpose(1, 2).is_contiguous()  # [B, H, N, d] -> [B, N, H, d]


@settings(deadline=None, max_examples=30)
@given(
    st.tuples(*(st.integers(1, top) for top in (2, 3, 40, 40, 20))),
    st.sampled_from(sorted(TYPES)),
    st.sampled_from([1e-3, 1.0, 100.0]),
)
def test_the_cpu_computes_what_float64_does(sizes, name, scale):
    given_operands = operands(Shape(*sizes), TYPES[name], scale=scale)
    found, found_scores = less_attention_with_scores(*given_operands)
    wanted, wanted_scores = exact(*given_operands)
    size = magnitude(*given_operands)
    # Sums of at most 40 in float32, and one rounding to the scores' type.
    tolerance = 1e-5 + torch.finfo(TYPES[name][0]).eps
    assert ((found_scores.double() - wanted_scores).abs() <= tolerance * size).all()
    drift = torch.expm1(2e-5 * size.amax(dim=(-1, -2), keepdim=True))
    largest = given_operands[4].double().abs().amax(dim=(-1, -2), keepdim=True)
    # shares that are rounded, products of a half-precision matrix product, its result
    rounding = 3 * torch.finfo(TYPES[name][1]).eps + 1e-5
    assert ((found.double() - wanted).abs() <= (drift + rounding) * largest).all()
    assert torch.equal(found, less_attention(*given_operands))


@pytest.mark.parametrize("operator", [less_attention, less_attention_with_scores])
@pytest.mark.parametrize("name", ["float16", "float32"])
def test_the_operator_keeps_pytorchs_rules(operator, name):
    torch.library.opcheck(operator, operands(Shape(2, 2, 9, 5, 8), TYPES[name]))


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_compiled_graph_computes_the_same(dynamic):
    def block(*given_operands):
        mixed, new_scores = less_attention_with_scores(*given_operands)
        return mixed * 2.0, new_scores

    compiled = torch.compile(block, fullgraph=True, dynamic=dynamic)
    given_operands = operands(Shape(2, 2, 9, 5, 8), TYPES["float32"])
    for found, wanted in zip(compiled(*given_operands), block(*given_operands), strict=True):
        torch.testing.assert_close(found, wanted)


def test_an_exported_program_keeps_the_operator_and_a_dynamic_batch():
    class Layer(torch.nn.Module):
        def forward(self, scores, queries, keys, constant, values):
            return less_attention(scores, queries, keys, constant, values)

    batch = torch.export.Dim("batch")
    given_operands = operands(Shape(2, 2, 9, 5, 8), TYPES["float32"])
    program = torch.export.export(
        Layer(), given_operands, dynamic_shapes=({0: batch}, None, None, None, {0: batch})
    )
    targets = [str(node.target) for node in program.graph.nodes]
    assert "lavit.less_attention.default" in targets
    more = operands(Shape(5, 2, 9, 5, 8), TYPES["float32"])
    torch.testing.assert_close(program.module()(*more), less_attention(*more))


@pytest.mark.parametrize(
    ("index", "size", "message"),
    [
        (0, (2, 9, 5), r"scores are \[2, 9, 5\], expected \[B, H, N, M\]"),
        (1, (9, 8), r"queries are \[9, 8\], expected \[9, 9\]"),
        (2, (9, 9), r"keys are \[9, 9\], expected \[5, 5\]"),
        (3, (5, 9), r"constant are \[5, 9\], expected \[9, 5\]"),
        (4, (2, 1, 5, 8), r"values are \[2, 1, 5, 8\], expected \[2, 2, 5, 8\]"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(index, size, message):
    given_operands = list(operands(Shape(2, 2, 9, 5, 8), TYPES["float32"]))
    given_operands[index] = torch.zeros(size)
    with pytest.raises(UsageError, match=message):
        less_attention(*given_operands)


def test_types_that_the_kernel_does_not_take_are_refused():
    pytest.importorskip("triton", reason="Triton is not installed")
    mixed = operands(Shape(1, 1, 4, 4, 4), (torch.float16, torch.float32))
    with pytest.raises(UsageError, match=r"float16, values torch.float32; the kernel takes"):
        launch(*mixed, with_scores=False)


@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from(["half", "mixed", "full"]))
def test_a_tile_fits_its_shape_and_is_one_of_those_compiled_ahead_of_time(tokens, keys, types):
    tile = tile_for(tokens, keys, types)
    assert tile in tiles(types)
    assert tokens % tile.align_n == 0
    assert not tile.single or keys <= tile.block_m


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_on_a_gpu_the_kernel_computes_what_float64_does(case):
    name, shape, scale = case
    given_operands = operands(shape, TYPES[name], scale=scale)
    found, found_scores = less_attention_with_scores(*(item.cuda() for item in given_operands))
    wanted, wanted_scores = exact(*given_operands)
    size = magnitude(*given_operands)
    score_error = (found_scores.cpu().double() - wanted_scores).abs()
    assert (score_error / size).max() < SCORE_TOLERANCES[name]
    drift = torch.expm1(2 * SCORE_TOLERANCES[name] * size.amax(dim=(-1, -2), keepdim=True))
    largest = given_operands[4].double().abs().amax(dim=(-1, -2), keepdim=True)
    rounding = 2 * torch.finfo(TYPES[name][1]).eps + 1e-5
    assert ((found.cpu().double() - wanted).abs() <= (drift + rounding) * largest).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_on_a_gpu_a_compiled_graph_computes_the_same():
    given_operands = [item.cuda() for item in operands(Shape(2, 5, 196, 49, 64), TYPES["float16"])]
    compiled = torch.compile(less_attention_with_scores, fullgraph=True)
    results = zip(
        compiled(*given_operands), less_attention_with_scores(*given_operands), strict=True
    )
    for found, wanted in results:
        torch.testing.assert_close(found, wanted)
