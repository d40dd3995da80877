"""Maps whose measures are known in closed form, and a real model against plain arithmetic."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lavit_deploy.model.lavit import LayerScores
from lavit_deploy.profiles.similarity.measures import similarity

# Everything is float64, and no map has more than a hundred entries: rounding stays below this.
EXACT = pytest.approx


class Layers:
    """A model that gives these scores, [B, H, N, M] each, whatever it is given."""

    def __init__(self, *scores, stages=None):
        stages = stages or [0] * len(scores)
        self._layers = [
            LayerScores(stage, stages[:place].count(stage), place > 0, layer)
            for place, (stage, layer) in enumerate(zip(stages, scores, strict=True))
        ]

    def forward_with_scores(self, images):
        return SimpleNamespace(scores=self._layers)


def measured(*scores, stages=None):
    return similarity(Layers(*scores, stages=stages), [torch.zeros(1)])


def one_hot(*places, keys=4):
    """Scores of one head whose softmax is, to 1e-40, one key for each query: [1, 1, N, keys]."""
    return 100.0 * torch.nn.functional.one_hot(torch.tensor(places), keys).double()[None, None]


def test_uniform_maps_are_alike_without_saying_anything():
    first, second = measured(torch.zeros(2, 3, 5, 4), torch.ones(2, 3, 5, 4))
    assert second.plain.mean == EXACT(1)
    assert second.centred.mean == second.scores.mean == 0
    assert first.entropy.mean == EXACT(1)
    assert first.largest.mean == EXACT(1 / 4)


def test_maps_of_one_key_each_are_alike_where_the_key_is_the_same():
    _, second = measured(one_hot(0, 1, 2, 3), one_hot(0, 1, 3, 2))
    assert second.plain.mean == EXACT(1 / 2)
    assert second.entropy.mean == EXACT(0, abs=1e-12)
    assert second.largest.mean == EXACT(1)
    # <a - 1/M, b - 1/M> = (2 - 4/4) of (4 - 4/4)
    assert second.centred.mean == EXACT(1 / 3)


def test_scores_are_compared_up_to_what_softmax_cannot_see():
    scores = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    moved = scores + torch.randn(2, 3, 5, 1, dtype=torch.float64)
    _, same, opposite = measured(scores, moved, -moved)
    assert same.scores.mean == same.plain.mean == EXACT(1)
    assert opposite.scores.mean == EXACT(-1)


def test_heads_that_changed_places_are_matched():
    heads = torch.cat([one_hot(0, 0, 0), one_hot(1, 2, 3), one_hot(2, 3, 1)], dim=1)
    _, second = measured(heads, heads[:, [2, 0, 1]])
    assert second.plain.mean == EXACT(0, abs=1e-12)
    assert second.matched.mean == EXACT(1)


def test_maps_that_do_not_depend_on_the_picture_say_so():
    constant = torch.randn(1, 2, 3, 4).expand(5, 2, 3, 4)
    (found,) = measured(constant)
    assert found.pictures.mean == EXACT(1)
    assert found.pictures.deviation == EXACT(0, abs=1e-12)
    (other,) = measured(torch.cat([one_hot(0, 1), one_hot(1, 0), one_hot(2, 3)]))
    assert other.pictures.mean == EXACT(0, abs=1e-12)


def test_nothing_is_said_of_a_picture_that_is_alone():
    (found,) = measured(torch.zeros(1, 2, 3, 4))
    assert found.pictures is None
    assert found.entropy.deviation == 0


def test_a_single_key_leaves_no_doubt_and_no_error():
    first, second = measured(torch.zeros(2, 1, 3, 1), torch.zeros(2, 1, 3, 1))
    assert first.entropy.mean == 1
    assert second.plain.mean == EXACT(1)
    assert second.centred.mean == 0


def test_the_first_layer_of_a_stage_has_none_before_it():
    scores = torch.zeros(1, 1, 2, 2)
    found = measured(scores, scores, scores, scores, stages=[0, 0, 1, 1])
    assert [one.name for one in found] == ["1.1", "1.2", "2.1", "2.2"]
    assert [one.plain is None for one in found] == [True, False, True, False]


def test_the_spread_is_that_of_pictures():
    both = torch.cat([one_hot(0, 1), one_hot(0, 1)])
    then = torch.cat([one_hot(0, 1), one_hot(2, 3)])
    _, second = measured(both, then)
    assert second.plain.mean == EXACT(1 / 2)
    assert second.plain.deviation == EXACT(math.sqrt(1 / 2))  # of 0 and 1, one degree of freedom


def test_batches_give_what_one_batch_gives(tiny_model):
    images = torch.randn(4, 3, 32, 32)
    whole = similarity(tiny_model, [images])
    parts = similarity(tiny_model, images.split(2))
    for one, other in zip(whole, parts, strict=True):
        # float32 models: products of other sizes may round otherwise.
        assert other.entropy.mean == pytest.approx(one.entropy.mean, abs=1e-6)
        assert (one.plain is None) == (other.plain is None)
        if one.plain:
            assert other.plain.mean == pytest.approx(one.plain.mean, abs=1e-6)


def test_a_model_is_measured_as_numpy_measures_it(tiny_model):
    images = torch.randn(3, 3, 32, 32)
    found = similarity(tiny_model, [images])
    with torch.inference_mode():
        scores = [one.scores.double().numpy() for one in tiny_model.forward_with_scores(images)[1]]
    exponents = [np.exp(one - one.max(-1, keepdims=True)) for one in scores]
    maps = [one / one.sum(-1, keepdims=True) for one in exponents]
    last, before = (one.reshape(*one.shape[:2], -1) for one in (maps[-1], maps[-2]))
    norms = np.linalg.norm(last, axis=-1) * np.linalg.norm(before, axis=-1)
    expected = ((last * before).sum(-1) / norms).mean()
    assert found[-1].less_attention
    assert found[-1].plain.mean == EXACT(expected)
