"""What repeated timings say about a median, and how sure one can be.

Calls within a turn share whatever the machine was doing then, so they are not independent: a turn
counts as one observation, the median of its calls. Intervals are order statistics of those: exact
for turns that are independent, whatever their distribution (H. A. David and H. N. Nagaraja, Order
Statistics, section 7.1). Two models are compared by the ratio within each round, in which they ran
side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

Turns = npt.NDArray[np.float64]
"""Seconds of each timed call: [turns, calls per turn]."""

CONFIDENCE = Fraction(95, 100)
"""Least probability that an interval covers the true value."""

MIN_TURNS = 6
"""Fewest turns with an interval: the extremes of n values cover the median with probability
1 - 2^(1-n), and six is the first n for which that is at least 95 %."""

_CALLS_FOR = {50: 2, 90: 10, 95: 20, 99: 100}
"""Fewest calls that a percentile is read from: below 1 / (1 - p) it is merely the slowest call."""


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % confidence interval; None where there are too few turns for one."""

    value: float
    low: float | None
    high: float | None

    @property
    def decides(self) -> bool:
        """Whether the interval of a ratio excludes 1: a difference beyond the noise."""
        return self.low is not None and self.high is not None and not self.low <= 1.0 <= self.high


def latency(turns: Turns) -> Interval:
    """Seconds of a call: the median over turns of each turn's median."""
    return _median(np.median(turns, axis=1))


def ratio(turns: Turns, reference: Turns) -> Interval:
    """Latency of `turns` over that of `reference`: the median over rounds of their ratio.

    Both hold the same rounds in the same order; surplus rounds of the longer one are left out.
    """
    rounds = min(len(turns), len(reference))
    return _median(np.median(turns[:rounds], axis=1) / np.median(reference[:rounds], axis=1))


def percentile(turns: Turns, percent: int) -> float | None:
    """Seconds that `percent` % of calls stay within; None for too few calls to tell."""
    if turns.size < _CALLS_FOR[percent]:
        return None
    return float(np.percentile(turns, percent))


def _median(values: npt.NDArray[np.float64]) -> Interval:
    """Median of independent values, between the order statistics that cover it."""
    value = float(np.median(values))
    rank = _rank(len(values))
    if rank == 0:
        return Interval(value, None, None)
    ordered = np.sort(values)
    return Interval(value, float(ordered[rank - 1]), float(ordered[-rank]))


def _rank(values: int) -> int:
    """Largest k for which the k-th smallest and k-th largest value cover the median; 0 for none.

    They miss it when fewer than k values fall on one side of it: P(Binomial(n, 1/2) < k) each.
    """
    most = (1 - CONFIDENCE) / 2 * 2**values  # of 2^n equally likely patterns, on one side
    rank, missed, patterns = 0, 1, 1  # patterns: n over rank; missed: their sum
    while missed <= most:
        rank += 1
        patterns = patterns * (values - rank + 1) // rank
        missed += patterns
    return rank
