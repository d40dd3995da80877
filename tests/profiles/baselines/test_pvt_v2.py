from lavit_deploy.profiles.baselines.pvt_v2 import PVT_V2, PvtV2Config, pvt_v2_counts
from lavit_deploy.profiles.counting.parts import Place
from lavit_deploy.profiles.counting.stage_counts import HEAD


def test_the_first_patch_embedding_is_a_convolution_of_seven_by_seven_pixels():
    counts = pvt_v2_counts(PvtV2Config(depths=(1, 1, 1, 1), image_size=(64, 64)))
    assert counts["stage 1"]["patch_embed"] == 16 * 16 * 3 * 64 * 7 * 7


def test_a_norm_that_closes_a_stage_feeds_the_next_patch_embedding_the_last_one_the_head():
    locate = PVT_V2.module_rules.locate
    assert locate("pvt_v2.encoder.layers.1.layer_norm") == Place("stage 3", "patch_embed")
    assert locate("pvt_v2.encoder.layers.3.layer_norm") == Place(HEAD, HEAD)
