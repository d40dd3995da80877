import dataclasses

import pytest
import torch

from lavit_deploy.common.errors import CheckpointError
from lavit_deploy.model.config import lavit_micro
from lavit_deploy.model.lavit import LaViT
from lavit_deploy.training.init_from_pvt import convert_pvt, load_pvt

MICRO = lavit_micro()


def official_pvt(config, num_classes=10):
    """Random tensors under the names and shapes of the official PVT v1 code."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"cls_token": (1, 1, config.dims[3])}
    before = config.in_channels
    for stage in range(4):
        dim, patch, ratio = config.dims[stage], config.patch_sizes[stage], config.sr_ratios[stage]
        height, width = config.grid(stage)
        number = stage + 1
        shapes[f"pos_embed{number}"] = (1, height * width + (stage == 3), dim)
        shapes[f"patch_embed{number}.proj.weight"] = (dim, before, patch, patch)
        shapes[f"patch_embed{number}.proj.bias"] = (dim,)
        for layer in range(config.depths[stage]):
            block, hidden = f"block{number}.{layer}", dim * config.mlp_ratios[stage]
            linears = {
                "attn.q": (dim, dim),
                "attn.kv": (2 * dim, dim),
                "attn.proj": (dim, dim),
                "mlp.fc1": (hidden, dim),
                "mlp.fc2": (dim, hidden),
            }
            norms = ["norm1", "norm2"]
            if ratio > 1:
                linears["attn.sr"] = (dim, dim, ratio, ratio)
                norms.append("attn.norm")
            for name, shape in linears.items():
                shapes[f"{block}.{name}.weight"], shapes[f"{block}.{name}.bias"] = shape, shape[:1]
            for name in norms:
                shapes[f"{block}.{name}.weight"] = shapes[f"{block}.{name}.bias"] = (dim,)
        norm = f"patch_embed{number}.norm"
        shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (dim,)
        before = dim
    shapes["norm.weight"] = shapes["norm.bias"] = (before,)
    shapes["head.weight"], shapes["head.bias"] = (num_classes, before), (num_classes,)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_vanilla_layers_take_the_tensors_as_they_are():
    pvt = official_pvt(MICRO)
    taken = convert_pvt(pvt, MICRO, source="pvt.pth").state_dict
    for ours, theirs in {
        "stages.0.patch_embed.proj.weight": "patch_embed1.proj.weight",
        "stages.3.patch_embed.norm.bias": "patch_embed4.norm.bias",
        "stages.1.blocks.1.attn.q.weight": "block2.1.attn.q.weight",
        "stages.1.blocks.1.attn.kv.bias": "block2.1.attn.kv.bias",
        "stages.1.blocks.0.attn.reduce.conv.weight": "block2.0.attn.sr.weight",
        "stages.1.blocks.0.attn.reduce.norm.weight": "block2.0.attn.norm.weight",
        "stages.2.blocks.1.attn.proj.bias": "block3.1.attn.proj.bias",
        "stages.2.blocks.1.mlp.fc1.weight": "block3.1.mlp.fc1.weight",
        "stages.3.blocks.2.norm2.weight": "block4.2.norm2.weight",
        "norm.bias": "norm.bias",
        "head.weight": "head.weight",
    }.items():
        assert taken[ours].equal(pvt[theirs]), ours


def test_a_less_attention_layer_computes_the_values_that_pvt_computed():
    pvt = official_pvt(MICRO)
    taken = convert_pvt(pvt, MICRO, source="pvt.pth").state_dict
    tokens = torch.randn(2, 4, 128)
    kv = torch.nn.functional.linear(
        tokens, pvt["block4.2.attn.kv.weight"], pvt["block4.2.attn.kv.bias"]
    )
    # the official code: [B, M, 2D] -> [B, M, 2, H, d] -> [2, B, H, M, d]; the second is V
    values = kv.reshape(2, 4, 2, 4, 32).permute(2, 0, 3, 1, 4)[1]
    ours = torch.nn.functional.linear(
        tokens, taken["stages.3.blocks.2.attn.v.weight"], taken["stages.3.blocks.2.attn.v.bias"]
    )
    # float32 dot products of length 128, summed in another order
    assert ours.reshape(2, 4, 4, 32).transpose(1, 2).allclose(values, atol=1e-4)


def test_the_result_loads_and_only_lavits_own_parts_stay_initial():
    converted = convert_pvt(official_pvt(MICRO), MICRO, source="pvt.pth")
    found = LaViT(MICRO).load_state_dict(converted.state_dict, strict=False)
    assert not found.unexpected_keys
    # load_state_dict does not miss BatchNorm's counter
    initial = [name for name in converted.initial if not name.endswith("num_batches_tracked")]
    assert found.missing_keys == initial
    assert all(
        any(part in key for part in ("theta", "psi", "residual")) for key in converted.initial
    )


def test_what_has_no_place_is_said():
    converted = convert_pvt(official_pvt(MICRO, num_classes=7), MICRO, source="pvt.pth")
    text = "\n".join(converted.report())
    for line in (
        "pos_embed1: a LaViT has no position embedding",
        "pos_embed4: a LaViT has no position embedding",
        "cls_token: this LaViT has no class token",
        "block3.1.attn.q.weight: a less-attention layer has no queries",
        "block3.1.attn.kv.weight: its first half: a less-attention layer has no keys",
        "head.weight: it has 7 classes, the data has 10",
    ):
        assert line in text
    assert "block3.0.attn.q" not in text
    assert "head.weight" in converted.initial


def test_a_lavit_with_a_class_token_takes_pvts():
    config = dataclasses.replace(MICRO, class_token=True)
    pvt = official_pvt(config)
    taken = convert_pvt(pvt, config, source="pvt.pth").state_dict
    assert taken["stages.3.class_token"].equal(pvt["cls_token"])


def test_every_tensor_that_does_not_fit_is_listed():
    pvt = official_pvt(MICRO)
    del pvt["block1.0.mlp.fc1.bias"]
    pvt["block2.0.attn.proj.bias"] = torch.zeros(5)
    pvt["block4.3.norm1.weight"] = torch.zeros(128)
    pvt["aux_head.weight"] = torch.zeros(2)
    with pytest.raises(CheckpointError) as error:
        convert_pvt(pvt, MICRO, source="pvt.pth")
    for line in (
        "pvt.pth does not fit the architecture (4 tensors)",
        "missing    stages.0.blocks.0.mlp.fc1.bias [128]",
        "unexpected stages.3.blocks.3.norm1.weight [128]",
        "unexpected aux_head.weight [2]",
        "misshapen  stages.1.blocks.0.attn.proj.bias [5], the model has [64]",
    ):
        assert line in str(error.value)


def test_other_names_are_no_pvt():
    with pytest.raises(CheckpointError, match=r"has no patch_embed1\.proj\.weight"):
        convert_pvt({"stem.weight": torch.zeros(1)}, MICRO, source="x.pth")


def test_the_official_file_holds_the_names_under_model_or_bare(tmp_path):
    pvt = official_pvt(MICRO)
    torch.save(pvt, tmp_path / "bare.pth")
    torch.save({"model": pvt, "epoch": 299}, tmp_path / "nested.pth")
    one, other = (load_pvt(tmp_path / name, MICRO) for name in ("bare.pth", "nested.pth"))
    assert one.state_dict.keys() == other.state_dict.keys()
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_pvt(tmp_path / "absent.pth", MICRO)
