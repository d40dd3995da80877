"""Fused attention of the baselines against their eager one, PVT's and PVT v2's above all."""

import pytest
import torch

from lavit_deploy.profiles.baselines import BASELINES

# Those that have fused attention, and results that do not depend on which of two equals is first.
FUSED = ("pvt_tiny", "pvt_v2_b1", "swin_tiny", "deit_tiny", "evit_s", "ppt_s", "lit_s")


@pytest.mark.slow
@pytest.mark.parametrize("name", FUSED)
def test_eager_and_fused_attention_give_the_same_logits(name):
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    eager, fused = BASELINES[name].build("eager"), BASELINES[name].build("sdpa")
    for key, value in fused.state_dict().items():
        torch.testing.assert_close(eager.state_dict()[key], value, rtol=0, atol=0)
    with torch.inference_mode():
        expected, found = eager(images), fused(images)
    expected, found = getattr(expected, "logits", expected), getattr(found, "logits", found)
    assert expected.shape == (2, 1000)
    assert expected.std() > 1e-3  # else everything would be close
    # float32, sums in another order through up to 12 layers; logits are of order 1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
