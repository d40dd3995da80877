import pytest
import torch
from torch import nn

from lavit_deploy.profiles.baselines.modules.lit import DeformableMerging


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_merging_without_displacement_is_a_convolution_of_the_four_neighbours():
    merging = DeformableMerging(6, (4, 8)).eval()
    nn.init.zeros_(merging.offsets.weight)
    nn.init.zeros_(merging.offsets.bias)
    x = torch.randn(2, 32, 6)
    # weight [12, 4 * 6], taps first -> [12, 6, 2, 2]
    weight = merging.proj.weight.reshape(12, 2, 2, 6).permute(0, 3, 1, 2)
    maps = x.transpose(1, 2).reshape(2, 6, 4, 8)
    expected = nn.functional.conv2d(maps, weight, merging.proj.bias, stride=2)
    expected = merging.act(merging.norm(expected)).flatten(2).transpose(1, 2)
    with torch.inference_mode():
        torch.testing.assert_close(merging(x), expected, rtol=1e-4, atol=1e-5)


def test_a_whole_pixel_of_displacement_takes_the_neighbour():
    merging = DeformableMerging(3, (4, 4)).eval()
    nn.init.zeros_(merging.offsets.weight)
    with torch.no_grad():  # (x, y) of each tap: one to the left
        merging.offsets.bias.copy_(torch.tensor([-1.0, 0.0] * 4))
    x = torch.randn(1, 16, 3)
    maps = x.transpose(1, 2).reshape(1, 3, 4, 4)
    shifted = nn.functional.pad(maps, (1, 0))[..., :4]  # what leaves the picture is zero
    weight = merging.proj.weight.reshape(6, 2, 2, 3).permute(0, 3, 1, 2)
    expected = nn.functional.conv2d(shifted, weight, merging.proj.bias, stride=2)
    expected = merging.act(merging.norm(expected)).flatten(2).transpose(1, 2)
    with torch.inference_mode():
        torch.testing.assert_close(merging(x), expected, rtol=1e-4, atol=1e-5)
