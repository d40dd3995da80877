"""How far probabilities can be believed: one temperature, and a threshold for what is unknown.

Networks are more certain than they are right. Dividing the logits by one number T, fitted on
labelled pictures that the model was not trained on, mends most of that and changes no answer
(Guo et al. 2017, arXiv:1706.04599). And whatever a picture shows, a softmax shares 100 % among the
known classes: the log-sum-exp of the logits (the negative free energy of Liu et al. 2020,
arXiv:2010.03759) tells pictures that are unlike those of any class by a low value.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lavit_deploy.manifest import Confidence, ReliabilityBin
from lavit_deploy.runtimes.base import Logits

BINS = 15
"""Of the calibration error, as in Guo et al. 2017."""

LEAST_PICTURES = 100
"""Fewer labelled pictures than this decide on no temperature."""

LEAST_REFUSED = 5
"""The threshold lies at the energy of some known picture: no fewer than so many lie below it."""

_SHARPEST, _FLATTEST = 0.05, 20.0
"""Between these the temperature is looked for: beyond, the logits are not those of a classifier."""

Floats = npt.NDArray[np.float64]
Scores = Logits | Floats
Labels = npt.NDArray[np.int64]


class NoConfidenceError(ValueError):
    """Nothing can be fitted on these pictures; says why."""


def log_sum_exp(logits: Scores) -> Floats:
    """log(sum_k exp z_k), the negative free energy at temperature 1.

    Args:
        logits: [..., K].

    Returns:
        float64 [...].
    """
    wide = logits.astype(np.float64)
    largest = wide.max(axis=-1, keepdims=True)
    return np.asarray(largest[..., 0] + np.log(np.exp(wide - largest).sum(axis=-1)))


def probabilities(logits: Scores, temperature: float = 1.0) -> Floats:
    """softmax(z / T), float64 [..., K]."""
    scaled = logits.astype(np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def negative_log_likelihood(logits: Scores, labels: Labels, temperature: float = 1.0) -> float:
    """Mean of -log softmax(z / T)[label] over the pictures, nats; logits [N, K], labels [N]."""
    scaled = logits.astype(np.float64) / temperature
    return float((log_sum_exp(scaled) - scaled[np.arange(len(labels)), labels]).mean())


def fit_temperature(logits: Scores, labels: Labels) -> float:
    """The temperature under which the labels are most likely.

    In beta = 1 / T the negative log-likelihood is convex; its slope, the mean over the pictures of
    E_p[z] - z[label], grows with beta and is 0 at the minimum, which is found by halving.

    Args:
        logits: [N, K].
        labels: [N].

    Raises:
        NoConfidenceError: the likelihood has no minimum between the bounds: every answer is right,
            or the labels have nothing to do with the logits.
    """
    wide = logits.astype(np.float64)
    own = wide[np.arange(len(labels)), labels]

    def slope(beta: float) -> float:
        return float(((probabilities(wide, 1.0 / beta) * wide).sum(axis=1) - own).mean())

    low, high = 1.0 / _FLATTEST, 1.0 / _SHARPEST
    if slope(low) > 0:
        raise NoConfidenceError("the labels are not what the model tells apart")
    if slope(high) < 0:
        raise NoConfidenceError("the answers are right without exception, whatever their certainty")
    for _ in range(60):  # to the last bit of a float64
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2.0 / (low + high)


def fit_confidence(
    logits: Logits, labels: Labels, *, source: str, max_refused: float
) -> Confidence:
    """Temperature and threshold from labelled pictures that the model was not trained on.

    What the errors say "after" is honest: each half of the pictures (every second one) is judged
    with the temperature that the other half gives. The stored temperature is that of all.

    Args:
        logits: of the float32 model, [N, K].
        labels: class numbers [N].
        source: where the pictures came from, one phrase.
        max_refused: share of known pictures that may be answered as unknown, 0 to 1; at 0, or with
            fewer than `LEAST_REFUSED` pictures in that share, there is no threshold.

    Raises:
        NoConfidenceError: too few pictures, or the likelihood has no minimum.
    """
    if len(labels) < LEAST_PICTURES:
        raise NoConfidenceError(
            f"{len(labels)} labelled pictures are given, {LEAST_PICTURES} are the fewest"
        )
    temperature = fit_temperature(logits, labels)
    halves = [np.arange(len(labels)) % 2 == half for half in (0, 1)]
    crossed = np.empty_like(logits, dtype=np.float64)
    for own, other in (halves, halves[::-1]):
        crossed[own] = logits[own] / _of_half(logits[other], labels[other], temperature)
    before = reliability(probabilities(logits), labels)
    after = reliability(probabilities(crossed), labels)
    return Confidence(
        temperature=temperature,
        unknown_below=unknown_threshold(log_sum_exp(logits), max_refused),
        max_refused=max_refused,
        pictures=len(labels),
        source=source,
        error_before=calibration_error(before),
        error=calibration_error(after),
        likelihood_before=negative_log_likelihood(logits, labels),
        likelihood=negative_log_likelihood(crossed, labels),
        bins_before=before,
        bins=after,
    )


def _of_half(logits: Logits, labels: Labels, default: float) -> float:
    """The temperature of half of the pictures; that of all where the half alone has none."""
    try:
        return fit_temperature(logits, labels)
    except NoConfidenceError:
        return default


def unknown_threshold(energies: Floats, max_refused: float) -> float | None:
    """The log-sum-exp below which no more than a share of known pictures lie.

    Args:
        energies: log-sum-exp of the logits of known pictures, [N].
        max_refused: the share, 0 to 1.

    Returns:
        None where the share is less than `LEAST_REFUSED` pictures.
    """
    refused = int(max_refused * len(energies))
    if refused < LEAST_REFUSED:
        return None
    return float(np.sort(energies)[refused])  # exactly `refused` lie below it, ties apart


def reliability(shares: Floats, labels: Labels) -> tuple[ReliabilityBin, ...]:
    """Confidence and accuracy of the most likely classes, see `reliability_bins`.

    Args:
        shares: probabilities [N, K].
        labels: [N].
    """
    return reliability_bins(shares.max(axis=1), shares.argmax(axis=1) == labels)


def reliability_bins(
    confidences: Floats, hits: npt.NDArray[np.bool_]
) -> tuple[ReliabilityBin, ...]:
    """Number of pictures, mean confidence and accuracy by confidence, in `BINS` equal bins.

    Args:
        confidences: probability of the most likely class [N].
        hits: whether it is the label [N].
    """
    # Bins are closed above: a confidence of exactly 1 is in the last.
    places = np.clip(np.ceil(confidences * BINS).astype(int) - 1, 0, BINS - 1)
    found = []
    for place in range(BINS):
        inside = places == place
        count = int(inside.sum())
        found.append(
            ReliabilityBin(count, float(confidences[inside].mean()), float(hits[inside].mean()))
            if count
            else ReliabilityBin(0, 0.0, 0.0)
        )
    return tuple(found)


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Expected calibration error: mean distance of confidence and accuracy over the pictures."""
    total = sum(one.pictures for one in bins)
    return sum(one.pictures * abs(one.confidence - one.accuracy) for one in bins) / total
