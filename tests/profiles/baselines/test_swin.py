from lavit_deploy.profiles.baselines.swin import SWIN, SwinConfig, swin_counts
from lavit_deploy.profiles.counting.parts import Place


def test_padding_of_a_grid_to_whole_windows_costs_attention_and_no_mlp():
    exact = swin_counts(SwinConfig(depths=(1, 1, 1, 1), image_size=(224, 224)))["stage 1"]
    padded = swin_counts(SwinConfig(depths=(1, 1, 1, 1), image_size=(256, 256)))["stage 1"]
    # 64 x 64 tokens become 70 x 70 for attention; 56 x 56 are whole windows of 7
    assert padded["attention_projections"] * 56**2 == exact["attention_projections"] * 70**2
    assert padded["mlp"] * 56**2 == exact["mlp"] * 64**2


def test_a_merging_belongs_to_the_stage_that_it_opens():
    name = "swin.encoder.layers.0.downsample.reduction"
    assert SWIN.module_rules.locate(name) == Place("stage 2", "patch_embed")
