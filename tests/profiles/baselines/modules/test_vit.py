"""The reference modules against models that they must equal where they change nothing."""

import dataclasses

import pytest
import torch
from torch import nn
from transformers import ViTConfig as TransformersConfig
from transformers import ViTForImageClassification

from lavit_deploy.profiles.baselines.modules.vit import DynamicViT, EViT, PlainViT, Ppt
from lavit_deploy.profiles.baselines.vit import ViTConfig

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
