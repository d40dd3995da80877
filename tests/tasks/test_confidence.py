"""Temperature, calibration error and the threshold for what is unknown."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax

from lavit_deploy.tasks.confidence import (
    BINS,
    LEAST_PICTURES,
    LEAST_REFUSED,
    NoConfidenceError,
    calibration_error,
    fit_confidence,
    fit_temperature,
    log_sum_exp,
    negative_log_likelihood,
    probabilities,
    reliability_bins,
    unknown_threshold,
)


def drawn(count: int, sharpness: float, seed: int = 0):
    """Logits whose labels are drawn from softmax(z), shown `sharpness` times too large."""
    random = np.random.default_rng(seed)
    logits = 2.0 * random.standard_normal((count, 10))
    shares = softmax(logits, axis=1)
    labels = (random.random((count, 1)) > shares.cumsum(axis=1)).sum(axis=1)
    return (sharpness * logits).astype(np.float32), labels.clip(0, 9)


@pytest.mark.parametrize("temperature", [1.0, 0.3, 4.0])
def test_log_sum_exp_likelihood_and_probabilities_are_scipys(temperature):
    logits, labels = drawn(64, 30.0)
    wide = logits.astype(np.float64)
    np.testing.assert_allclose(log_sum_exp(logits), logsumexp(wide, axis=1), rtol=1e-14)
    np.testing.assert_allclose(
        probabilities(logits, temperature), softmax(wide / temperature, axis=1), rtol=1e-12
    )
    expected = -log_softmax(wide / temperature, axis=1)[np.arange(64), labels].mean()
    assert negative_log_likelihood(logits, labels, temperature) == pytest.approx(expected, 1e-12)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_is_the_minimum_that_scipy_finds(sharpness):
    logits, labels = drawn(2000, sharpness)
    best = minimize_scalar(
        lambda beta: negative_log_likelihood(logits, labels, 1 / beta),
        bounds=(0.05, 20),
        method="bounded",
        options={"xatol": 1e-10},
    )
    # The likelihood is flat at its minimum: half of its digits are the argument's.
    assert fit_temperature(logits, labels) == pytest.approx(1 / best.x, rel=1e-6)


def test_the_temperature_is_what_the_logits_were_sharpened_by():
    logits, labels = drawn(20_000, 3.0)
    # Its standard error from so many labels is below 2 %; three of them.
    assert fit_temperature(logits, labels) == pytest.approx(3.0, rel=0.06)


def test_an_overconfident_model_is_mended_on_pictures_that_did_not_fit_it():
    logits, labels = drawn(4000, 3.0)
    found = fit_confidence(logits, labels, source="drawn", max_refused=0.05)
    assert found.error_before > 0.1
    assert found.error < 0.02  # what the bins of 4,000 pictures resolve
    assert found.likelihood < found.likelihood_before
    assert sum(one.pictures for one in found.bins) == found.pictures == 4000


def test_no_more_than_the_share_of_known_pictures_is_unknown():
    logits, labels = drawn(1000, 1.0)
    found = fit_confidence(logits, labels, source="drawn", max_refused=0.05)
    assert (log_sum_exp(logits) < found.unknown_below).sum() == 50


def test_a_share_of_too_few_pictures_gives_no_threshold():
    energies = np.arange(100.0)
    assert unknown_threshold(energies, 0.05) == LEAST_REFUSED
    assert unknown_threshold(energies, 0.04) is None
    assert unknown_threshold(energies, 0.0) is None


def test_equal_pictures_are_not_refused_together():
    assert unknown_threshold(np.zeros(100), 0.5) == 0.0  # none lies below it


@pytest.mark.parametrize(
    ("logits", "labels", "why"),
    [
        (np.eye(10)[np.arange(200) % 10], np.arange(200) % 10, "right without exception"),
        (np.eye(10)[np.arange(200) % 10], (np.arange(200) + 1) % 10, "not what the model"),
        (*drawn(LEAST_PICTURES - 1, 1.0), f"{LEAST_PICTURES} are the fewest"),
    ],
)
def test_what_decides_on_nothing_is_refused(logits, labels, why):
    with pytest.raises(NoConfidenceError, match=why):
        fit_confidence(logits.astype(np.float32), labels, source="drawn", max_refused=0.05)


def test_a_model_that_is_as_right_as_it_says_has_no_calibration_error():
    confidences = np.full(1000, 0.75)
    hits = np.arange(1000) % 4 != 0
    assert calibration_error(reliability_bins(confidences, hits)) == pytest.approx(0.0, abs=1e-12)
    never = np.zeros(1000, dtype=bool)
    assert calibration_error(reliability_bins(confidences, never)) == pytest.approx(0.75)


def test_the_edges_of_bins_belong_to_the_one_below():
    bins = reliability_bins(np.array([1.0, 1 / BINS, 0.0]), np.array([True, True, False]))
    assert [one.pictures for one in bins] == [2, *[0] * (BINS - 2), 1]
    assert math.isclose(bins[-1].confidence, 1.0)
