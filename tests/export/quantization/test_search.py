import pytest

from lavit_deploy.export.quantization.accuracy_loss import Loss, loss
from lavit_deploy.export.quantization.accuracy_search import find_float_blocks

pytestmark = pytest.mark.slow

ERRORS = {"a": 0.1, "b": 0.4, "c": 0.2, "d": 0.3}


def points(value):
    return Loss(1.0, 1.0 - value / 100, 1.0)


def test_blocks_return_to_float_by_their_sensitivity_until_the_loss_holds():
    tried = []

    def measure(kept):
        tried.append(kept)
        return points(2.0 - 0.6 * len(kept))

    assert find_float_blocks(lambda: ERRORS, measure, 1.0) == ("b", "d")
    assert tried == [(), ("b",), ("b", "d")]


def test_nothing_is_measured_per_block_where_int8_holds_as_it_is():
    def never():
        raise AssertionError

    assert find_float_blocks(never, lambda kept: points(0.4), 0.5) == ()


def test_int8_that_holds_nowhere_is_told_from_int8_that_needs_no_help():
    assert find_float_blocks(lambda: ERRORS, lambda kept: points(5.0), 0.5) is None


def test_loss_is_of_accuracy_with_labels_and_of_agreement_without():
    import numpy as np

    reference = np.eye(4, dtype=np.float32)
    found = reference[[0, 1, 2, 2]]
    assert loss(found, reference, None).points == pytest.approx(25.0)
    assert loss(found, reference, np.array([0, 1, 2, 2])).points == pytest.approx(-25.0)


def test_blocks_are_measured_alone_and_methods_against_each_other(scheme):
    assert set(scheme.sensitivity) == set(scheme.blocks)
    assert all(0 < error < 1 for error in scheme.sensitivity.values())
    assert scheme.method_errors[scheme.method] == min(scheme.method_errors.values())


def test_weights_alone_lose_less_than_with_activations_rounded_in_every_block(scheme):
    both, weights = scheme.sensitivity, scheme.weights_sensitivity
    assert set(weights) == set(both)
    assert all(0 < error for error in weights.values())
    assert sum(weights.values()) < sum(both.values())
