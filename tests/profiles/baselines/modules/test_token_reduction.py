import pytest
import torch

from lavit_deploy.profiles.baselines.modules.token_reduction import (
    PPT_THRESHOLD,
    EViTReduction,
    Matching,
    PptReduction,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


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
