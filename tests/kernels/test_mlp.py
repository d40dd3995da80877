"""The fused MLP on a CPU, and its Triton kernel under the interpreter (`interpreted.py`)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from lavit_deploy.common.errors import UsageError
from lavit_deploy.kernels.mlp import fused_mlp, launch
from lavit_deploy.model.config import lavit_s
from lavit_deploy.model.lavit import Mlp

pytestmark = pytest.mark.slow

EPS = 1e-6
WEIGHTS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}

TOLERANCES = {
    # Of the scale of the result: a normalised token, its hidden units and they after GELU are each
    # rounded once; sums of hundreds of such errors of either sign come to about one of them.
    "float16": 2**-9,
    "bfloat16": 2**-6,
    "float32": 1e-5,
}

CASES = [
    # stages 1 and 2 of lavit_s, and what fits no block: tokens, channels, hidden units
    ((2, 49), 64, 512),
    ((1, 65), 128, 1024),
    ((3,), 16, 33),
    ((1, 1), 32, 1),
    ((2, 5, 7), 64, 100),
]


def operands(tokens, dim, hidden, weights, stream=torch.float32, *, scale=1.0):
    generator = torch.Generator().manual_seed(dim + hidden)

    def noise(*size):
        return torch.randn(*size, generator=generator)

    return (
        (scale * (noise(*tokens, dim) + 0.5)).to(stream),
        (noise(hidden, dim) / dim**0.5).to(weights),
        noise(hidden).to(weights),
        (noise(dim, hidden) / hidden**0.5).to(weights),
        noise(dim).to(weights),
        EPS,
    )


def exact(x, weight1, bias1, weight2, bias2, eps):
    x, weight1, bias1, weight2, bias2 = (
        item.double() for item in (x, weight1, bias1, weight2, bias2)
    )
    normed = functional.layer_norm(x, x.shape[-1:], eps=eps)
    hidden = functional.gelu(functional.linear(normed, weight1, bias1))
    return x + functional.linear(hidden, weight2, bias2)


def error(found, given_operands):
    wanted = exact(*given_operands)
    return (found.double() - wanted).abs().max() / wanted.abs().max()


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_kernel_computes_what_float64_does(interpret, name):
    calls = [operands(*case, WEIGHTS[name]) for case in CASES]
    results = interpret([("fused_mlp", call, {}) for call in calls])
    for found, call in zip(results, calls, strict=True):
        assert found.dtype == torch.float32
        assert error(found, call) < TOLERANCES[name]


def test_a_half_precision_stream_stays_one_and_large_tokens_are_no_trouble(interpret):
    # Large: the square of a token leaves float16's range; the kernel squares in float32.
    call = operands((2, 20), 64, 256, torch.float16, torch.float16, scale=1000.0)
    (found,) = interpret([("fused_mlp", call, {})])
    assert found.dtype == torch.float16
    assert error(found, call) < 2**-10


def test_half_precision_takes_a_gelu_within_a_ten_thousandth(interpret):
    """Tokens of 0 and weights of 1 leave GELU(b1) alone: every unit is one output channel."""
    units = torch.linspace(-9, 9, 8 * 128).half().reshape(8, 128)
    calls = [
        (torch.zeros(1, 128), torch.zeros(128, 128).half(), bias, torch.eye(128).half(),
         torch.zeros(128).half(), EPS)
        for bias in units
    ]  # fmt: skip
    found = torch.cat(interpret([("fused_mlp", call, {}) for call in calls])).double()
    wanted = functional.gelu(units.double())
    # The second product takes float16: 2^-11 of what GELU gave, 2^-25 where that is subnormal.
    assert ((found - wanted).abs() <= 1e-4 + 2**-11 * wanted.abs() + 2**-25).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 9), st.integers(1, 70), st.integers(1, 50), st.sampled_from(sorted(WEIGHTS)))
def test_the_cpu_computes_what_float64_does(tokens, dim, hidden, name):
    call = operands((2, tokens), dim, hidden, WEIGHTS[name])
    # One channel is its own mean; what remains of it is nothing.
    assert error(fused_mlp(*call), call) < 2 * TOLERANCES[name]


def test_it_is_the_mlp_of_the_model():
    config = lavit_s()
    dim = config.dims[0]
    mlp = Mlp(dim, config.mlp_ratios[0])
    norm = torch.nn.LayerNorm(dim, eps=config.norm_eps, elementwise_affine=False)
    x = torch.randn(2, 9, dim)
    with torch.no_grad():
        wanted = x + mlp(norm(x))
        found = fused_mlp(
            x, mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias, config.norm_eps
        )
    torch.testing.assert_close(found, wanted)


def test_the_operator_keeps_pytorchs_rules_and_compiles():
    call = operands((2, 5), 16, 32, torch.float32)
    torch.library.opcheck(fused_mlp, call)
    compiled = torch.compile(fused_mlp, fullgraph=True)
    torch.testing.assert_close(compiled(*call), fused_mlp(*call))


def test_operands_that_do_not_fit_are_refused():
    x, weight1, bias1, weight2, bias2, eps = operands((2, 5), 16, 32, torch.float32)
    with pytest.raises(UsageError, match=r"weight1 is \[16, 32\], expected \[hidden, 16\]"):
        fused_mlp(x, weight2, bias1, weight2, bias2, eps)
    with pytest.raises(UsageError, match=r"weight2 is \[32, 16\], expected \[16, 32\]"):
        fused_mlp(x, weight1, bias1, weight1, bias2, eps)
    with pytest.raises(UsageError, match=r"weight1 is torch.float32, weight2 torch.float16"):
        fused_mlp(x, weight1, bias1, weight2.half(), bias2, eps)


def test_widths_that_the_kernel_does_not_take_are_refused():
    pytest.importorskip("triton", reason="Triton is not installed")
    with pytest.raises(UsageError, match=r"320 channels; the kernel takes \[16, 32, 64, 128\]"):
        launch(*operands((2, 5), 320, 32, torch.float32))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", WEIGHTS)
def test_on_a_gpu_the_kernel_computes_what_float64_does(name, case):
    call = operands(*case, WEIGHTS[name])
    on_gpu = [item.cuda() if isinstance(item, torch.Tensor) else item for item in call]
    assert error(fused_mlp(*on_gpu).cpu(), call) < TOLERANCES[name]
