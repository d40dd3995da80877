import pytest
import torch
from torch import nn

from lavit_deploy.profiles.baselines.modules.efficientvit import LinearAttention


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("side", [3, 6])
def test_linear_attention_is_attention_with_relu_weights_in_either_order(side):
    # 9 tokens are fewer than the 16 channels of a head, 36 are more: the two orders of products
    attention = LinearAttention(32, 16).double().eval()
    attention.proj = nn.Identity()
    x = torch.randn(2, 32, side, side, dtype=torch.float64)
    qkv = attention.qkv(x)
    qkv = torch.cat((qkv, attention.aggregate(qkv)), dim=1).reshape(2, 4, 48, side * side)
    q, k, v = qkv.chunk(3, dim=2)
    weights = k.relu().transpose(-1, -2) @ q.relu()
    weights = weights / (weights.sum(dim=2, keepdim=True) + 1e-15)
    expected = (v @ weights).reshape(2, 64, side, side)
    with torch.inference_mode():
        torch.testing.assert_close(attention(x), expected, rtol=1e-9, atol=1e-12)
