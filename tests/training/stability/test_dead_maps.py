import torch

from lavit_deploy.model.lavit import LayerScores
from lavit_deploy.training.stability.dead_maps import dead_layers, variation
from tiny_models import seeded  # noqa: F401 - a fixture


def layer(scores, *, less_attention=True):
    return LayerScores(2, 1, less_attention, scores)


def test_a_map_of_one_key_for_everything_is_dead(seeded):
    scores = torch.randn(4, 2, 9, 4) * 1e-3
    scores[..., 1] += 100.0
    assert dead_layers([layer(scores)]) == ("stage 3, layer 2",)
    assert dead_layers([layer(scores, less_attention=False)]) == ()


def test_maps_of_each_head_may_differ_and_still_be_dead(seeded):
    scores = torch.randn(1, 2, 1, 4).expand(4, 2, 9, 4)
    assert variation(scores) < 1e-6
    assert len(dead_layers([layer(scores)])) == 1


def test_maps_that_follow_the_picture_or_the_query_are_alive(seeded):
    by_picture = torch.randn(4, 2, 1, 4).expand(4, 2, 9, 4)
    by_query = torch.randn(1, 2, 9, 4).expand(4, 2, 9, 4)
    assert dead_layers([layer(by_picture), layer(by_query)]) == ()


def test_an_untrained_model_is_alive(make_trainer, data):
    trainer = make_trainer()
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert dead_layers(trainer.model.forward_with_scores(images).scores) == ()


def test_variation_is_one_where_every_picture_has_a_key_of_its_own():
    scores = (1000.0 * torch.eye(64)).reshape(64, 1, 1, 64)  # [B, H, N, M]
    assert abs(variation(scores) - (1 - 1 / 64)) < 1e-6
