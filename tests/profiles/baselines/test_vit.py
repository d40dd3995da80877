from lavit_deploy.profiles.baselines.vit import LayerTokens, ViTConfig, layer_tokens

SMALL = {"image_size": (32, 32), "patch": 8, "dim": 6, "depth": 3, "heads": 2}  # 16 patches


def test_a_vit_has_the_same_tokens_in_every_layer():
    assert list(layer_tokens(ViTConfig(**SMALL))) == [LayerTokens(17, 17, 0)] * 3


def test_dynamicvit_removes_tokens_before_a_layer_by_powers_of_its_ratio():
    config = ViTConfig(**SMALL, reduction="dynamicvit", reduced_at=(1, 2), keep=0.5)
    assert list(layer_tokens(config)) == [
        LayerTokens(17, 17, 0), LayerTokens(9, 9, 16), LayerTokens(5, 5, 8),
    ]  # fmt: skip


def test_evit_removes_them_between_attention_and_mlp_and_keeps_one_for_the_others():
    config = ViTConfig(**SMALL, reduction="evit", reduced_at=(1,), keep=0.7)
    # 12 of 16 stay: with the class token and the sum of the others 14
    assert list(layer_tokens(config)) == [
        LayerTokens(17, 17, 0), LayerTokens(17, 14, 16), LayerTokens(14, 14, 0),
    ]  # fmt: skip


def test_ppt_removes_at_most_half_of_them():
    config = ViTConfig(**SMALL, reduction="ppt", reduced_at=(0, 1), removed=5)
    assert [one.mlp for one in layer_tokens(config)] == [12, 7, 7]
