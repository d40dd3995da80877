"""The reference modules against models that they must equal where they change nothing."""

import dataclasses

import pytest
import torch
from torch import nn
from transformers import ViTConfig as TransformersConfig
from transformers import ViTForImageClassification

from lavit_deploy.profiles.baselines.efficientvit import LinearAttention
from lavit_deploy.profiles.baselines.lit import DeformableMerging
from lavit_deploy.profiles.baselines.token_reduction import (
    PPT_THRESHOLD,
    EViTReduction,
    Matching,
    PptReduction,
)
from lavit_deploy.profiles.baselines.vit import DynamicViT, EViT, PlainViT, Ppt
from lavit_deploy.profiles.counting.closed_form import ViTConfig

SMALL = ViTConfig(image_size=(64, 64), dim=24, depth=3, heads=3, num_classes=7)
KEEPS_ALL = {
    DynamicViT: {"reduction": "dynamicvit", "reduced_at": (1, 2), "keep": 1.0},
    EViT: {"reduction": "evit", "reduced_at": (1, 2), "keep": 1.0},
    Ppt: {"reduction": "ppt", "reduced_at": (1, 2), "removed": 0},
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def images():
    return torch.randn(3, 3, 64, 64)


def plain():
    model = PlainViT(SMALL, fused=False).eval()
    for parameter in model.parameters():  # positions and class token are zero otherwise
        nn.init.normal_(parameter, std=0.1)
    return model


def test_the_plain_vit_is_that_of_transformers():
    ours = plain()
    theirs = ViTForImageClassification(
        TransformersConfig(
            image_size=64,
            hidden_size=24,
            num_hidden_layers=3,
            num_attention_heads=3,
            intermediate_size=96,
            num_labels=7,
            layer_norm_eps=1e-6,
        )
    ).eval()
    weights = {
        "vit.embeddings.cls_token": ours.class_token,
        "vit.embeddings.position_embeddings": ours.positions,
    }

    def copy(to, module):
        weights[f"{to}.weight"], weights[f"{to}.bias"] = module.weight, module.bias

    copy("vit.embeddings.patch_embeddings.projection", ours.patch_embed.proj)
    copy("vit.layernorm", ours.norm)
    copy("classifier", ours.head)
    for index, block in enumerate(ours.blocks):
        layer = f"vit.layers.{index}"
        copy(f"{layer}.layernorm_before", block.norm1)
        copy(f"{layer}.layernorm_after", block.norm2)
        copy(f"{layer}.attention.o_proj", block.attn.proj)
        copy(f"{layer}.mlp.fc1", block.mlp.fc1)
        copy(f"{layer}.mlp.fc2", block.mlp.fc2)
        parts = zip(
            "qkv", block.attn.qkv.weight.chunk(3), block.attn.qkv.bias.chunk(3), strict=True
        )
        for letter, weight, bias in parts:
            weights[f"{layer}.attention.{letter}_proj.weight"] = weight
            weights[f"{layer}.attention.{letter}_proj.bias"] = bias
    theirs.load_state_dict(weights)
    x = images()
    with torch.inference_mode():
        # float32 sums in another order; logits are of order 1
        torch.testing.assert_close(ours(x), theirs(x).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KEEPS_ALL)
def test_a_model_that_removes_no_token_is_the_plain_vit(kind):
    reference = plain()
    model = kind(dataclasses.replace(SMALL, **KEEPS_ALL[kind]), fused=False).eval()
    model.load_state_dict(reference.state_dict(), strict=False)
    x = images()
    with torch.inference_mode():
        # DynamicViT changes the order of tokens, and so that of the sums
        torch.testing.assert_close(model(x), reference(x), rtol=1e-4, atol=1e-5)


def test_evit_keeps_the_tokens_of_highest_attention_and_sums_up_the_others():
    x = torch.arange(5.0).reshape(1, 5, 1)  # class token 0, then 1 to 4
    weights = torch.zeros(1, 1, 5, 5)
    weights[0, 0, 0] = torch.tensor([0.1, 0.2, 0.4, 0.05, 0.25])
    found = EViTReduction(0.5)(x, weights)
    # kept: 2 (0.4) and 4 (0.25); the others weigh 0.2 * 1 + 0.05 * 3
    torch.testing.assert_close(found.flatten(), torch.tensor([0.0, 2.0, 4.0, 0.35]))


def test_the_most_similar_pairs_are_merged_and_the_class_token_is_not():
    keys = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [1.0, 1.0], [-1.0, 0.2]])
    match = Matching(keys[None], removed=1)  # 0, 2, 4 look for partners among 1, 3, 5
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]).reshape(1, 6, 1)
    # 2 joins 3; 0 is as close to 1, but is the class token
    assert match.summed(values).flatten().tolist() == [1.0, 16.0, 2.0, 12.0, 32.0]


@pytest.mark.parametrize("even", [True, False])
def test_ppt_merges_tokens_of_even_significance_and_drops_the_least_of_uneven(even):
    tokens, removed = 9, 3
    x, sizes = torch.randn(1, tokens, 4), torch.ones(1, tokens, 1)
    keys, values = torch.randn(1, 1, tokens, 4), torch.ones(1, 1, tokens, 4)
    weights = torch.full((1, 1, tokens, tokens), 1 / tokens)
    if not even:
        weights[0, 0, 0] = torch.arange(tokens) / sum(range(tokens))
    found, new_sizes = PptReduction(removed)(x, sizes, keys, values, weights)
    assert found.shape == (1, tokens - removed, 4)
    torch.testing.assert_close(found[:, 0], x[:, 0])
    if even:
        assert new_sizes.sum() == tokens  # merged tokens stand for all that were there
        torch.testing.assert_close((found * new_sizes).sum(1), x.sum(1))
    else:
        scores = weights[0, 0, 0, 1:] / weights[0, 0, 0, 1:].sum()
        assert scores.var() > PPT_THRESHOLD
        torch.testing.assert_close(found[0, 1:], x[0, [8, 7, 6, 5, 4]])


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
