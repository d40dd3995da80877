import pytest
import torch

from lavit_deploy.model.config import lavit_micro
from lavit_deploy.model.lavit import LaViT, LayerScores
from lavit_deploy.model.losses import (
    asymmetry,
    diagonal_share,
    diagonality_loss,
    dp_loss,
    square_map,
)

# Sums of at most 64 float32 values of size one.
TOLERANCE = 1e-6


def maps(*rows):
    return torch.tensor([[rows]], dtype=torch.float32)


@pytest.mark.parametrize("size", [2, 4, 49])
def test_the_identity_has_the_least_loss(size):
    assert diagonality_loss(torch.eye(size)[None, None]).item() == pytest.approx(-1.0)


@pytest.mark.parametrize("size", [2, 4, 49])
def test_a_uniform_map_has_loss_zero(size):
    uniform = torch.full((1, 1, size, size), 1 / size)
    assert diagonality_loss(uniform).item() == pytest.approx(0.0, abs=TOLERANCE)


@pytest.mark.parametrize("size", [2, 4, 49])
def test_attention_that_avoids_the_diagonal_has_a_positive_loss(size):
    off = (1 - torch.eye(size)) / (size - 1)
    assert diagonality_loss(off[None, None]).item() == pytest.approx(1 / (size - 1))


def test_a_cyclic_shift_pays_for_asymmetry_and_for_its_diagonal():
    shift = torch.eye(4).roll(1, dims=1)[None, None]
    # every row differs from its column by 2; mean off-diagonal entry 1/3, diagonal 0
    assert asymmetry(shift).item() == pytest.approx(2.0)
    assert diagonality_loss(shift).item() == pytest.approx(2 / 3 + 1 / 3)


def test_a_two_by_two_map_by_hand():
    attention = maps([0.7, 0.3], [0.1, 0.9])
    assert diagonal_share(attention).item() == pytest.approx(0.8)
    assert asymmetry(attention).item() == pytest.approx(0.2)
    assert diagonality_loss(attention).item() == pytest.approx(0.2 + 0.2 - 0.8)


def test_descending_the_loss_raises_the_diagonal():
    """The printed sign of Eq. 9 would lower it."""
    scores = torch.randn(2, 3, 4, 4, requires_grad=True)
    before = diagonal_share(scores.softmax(-1)).item()
    diagonality_loss(scores.softmax(-1)).backward()
    after = diagonal_share((scores - 5.0 * scores.grad).softmax(-1)).item()
    assert after > before


def test_a_single_token_has_no_loss():
    assert diagonality_loss(torch.ones(2, 1, 1, 1)).item() == 0.0


def test_queries_are_averaged_over_the_cell_of_their_key():
    """Each query attends to the key of its own cell, so the square map is the identity."""
    grid, keys = (4, 6), (2, 3)
    scores = torch.full((1, 1, 24, 6), -40.0)
    for row in range(4):
        for column in range(6):
            cell = (row // 2) * 3 + column // 2
            scores[0, 0, row * 6 + column, cell] = 40.0
    torch.testing.assert_close(square_map(scores, grid, keys)[0, 0], torch.eye(6))


def test_rows_of_a_square_map_sum_to_one():
    attention = square_map(torch.randn(2, 3, 64, 4), (8, 8), (2, 2))
    assert attention.shape == (2, 3, 4, 4)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 3, 4), atol=1e-5, rtol=0)


def test_only_less_attention_layers_contribute():
    config = lavit_micro()
    output = LaViT(config).forward_with_scores(torch.randn(2, 3, 64, 64))
    own = [item for item in output.scores if item.less_attention]
    assert [(item.stage, item.layer) for item in own] == [(2, 1), (2, 2), (3, 1), (3, 2)]
    expected = sum(
        diagonality_loss(square_map(i.scores, config.grid(i.stage), config.key_grid(i.stage)))
        for i in own
    )
    torch.testing.assert_close(dp_loss(output.scores, config), expected)


def test_a_model_without_less_attention_has_no_loss():
    scores = [LayerScores(0, 0, less_attention=False, scores=torch.randn(1, 1, 4, 4))]
    assert dp_loss(scores, lavit_micro()).item() == 0.0
