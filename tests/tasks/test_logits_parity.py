"""Parity of logits: what is measured, what each precision is allowed."""

import numpy as np
import pytest

from lavit_deploy.tasks.logits_parity import TOLERANCES, compare


@pytest.fixture
def reference():
    return np.random.default_rng(2).normal(size=(40, 10)).astype(np.float32)


def test_equal_logits_pass_with_perfect_figures(reference):
    parity = compare(reference, reference, "fp32", source="test")
    assert parity.passed
    assert parity.reason == ""
    assert (parity.max_difference, parity.top1_agreement) == (0.0, 1.0)
    assert parity.cosine == pytest.approx(1.0)


def test_figures_are_those_of_the_definition():
    reference = np.array([[3.0, 4.0], [1.0, 0.0]], dtype=np.float32)
    found = np.array([[4.0, 3.0], [1.0, 0.0]], dtype=np.float32)
    parity = compare(found, reference, "fp16", source="test")
    assert parity.max_difference == pytest.approx(1.0)
    assert parity.mean_difference == pytest.approx(0.5)
    assert parity.cosine == pytest.approx(24 / 25)
    assert parity.top1_agreement == pytest.approx(0.5)
    assert not parity.passed


@pytest.mark.parametrize("precision", TOLERANCES)
def test_an_error_beyond_the_tolerance_fails_and_one_below_passes(reference, precision):
    scale = np.abs(reference).max()
    for factor, passes in ((0.1, True), (1.5, False)):
        found = reference.copy()
        found[3, reference[3].argmin()] += factor * TOLERANCES[precision].relative * scale
        parity = compare(found, reference, precision, source="test")
        assert parity.passed is passes, parity.reason


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_logit_that_is_not_finite_fails(reference, value):
    found = reference.copy()
    found[0, 0] = value
    parity = compare(found, reference, "bf16", source="test")
    assert not parity.passed
    assert "not finite" in parity.reason
    parity.model_dump_json()  # and the manifest can still be written as JSON numbers
    assert np.isfinite(parity.max_difference)


def test_permuted_pictures_fail_by_agreement_and_cosine(reference):
    parity = compare(reference[::-1], reference, "bf16", source="test")
    assert "top-1" in parity.reason
    assert "cosine" in parity.reason


def test_a_near_tie_that_flips_is_counted_and_forgiven():
    reference = np.array([[1.0, 1.0 - 1e-4, 0.0]] * 4, dtype=np.float32)
    found = reference.copy()
    found[0] = [1.0 - 1e-4, 1.0, 0.0]
    parity = compare(found, reference, "fp16", source="test")
    assert parity.passed
    assert parity.near_ties == 1
    assert parity.top1_agreement == 1.0


def test_a_flip_without_a_near_tie_counts():
    reference = np.array([[1.0, 0.985, 0.0]] * 4, dtype=np.float32)
    found = reference.copy()
    found[0] = [0.99, 0.995, 0.0]
    parity = compare(found, reference, "fp16", source="test")
    assert parity.top1_agreement == 0.75
    assert not parity.passed
