"""How multiply-adds grow with the image, by part."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from lavit_deploy.common.errors import UsageError
from lavit_deploy.profiles.counting.parts import PARTS
from lavit_deploy.profiles.counting.stage_counts import StageCounts, by_part
from lavit_deploy.profiles.report.costs import Growth, GrowthPart

SIZES = (224, 320, 416, 512, 640, 768, 896, 1024)
"""Sides of square images, pixels: multiples of 32, which every architecture here takes."""


def grow(sizes: Sequence[int], counts_at: Callable[[int], StageCounts]) -> Growth:
    """Count at every size and fit a power of the number of pixels to each part.

    Args:
        sizes: sides of square images, pixels; at least two different ones.
        counts_at: multiply-adds for a side.

    Raises:
        UsageError: fewer than two sizes.
    """
    sizes = sorted(set(sizes))
    if len(sizes) < 2:
        raise UsageError("growth needs at least two different image sizes")
    found = [by_part(counts_at(size)) for size in sizes]
    present = [part for part in PARTS if any(counts[part] for counts in found)]
    totals = tuple(counts.total() for counts in found)
    return Growth(
        sizes=tuple(sizes),
        parts=tuple(
            GrowthPart(
                part=part,
                multiply_adds=tuple(counts[part] for counts in found),
                exponent=exponent(sizes, [counts[part] for counts in found]),
            )
            for part in present
        ),
        total=totals,
        total_exponent=exponent(sizes, totals),
    )


def exponent(sizes: Sequence[int], counts: Sequence[int]) -> float:
    """Slope of log(count) over log(pixels), by least squares.

    Args:
        sizes: sides of square images, pixels.
        counts: what grows; one for each size, all positive.
    """
    if len(set(counts)) == 1:
        return 0.0  # exactly, where rounding would leave a trace of a slope
    x = [2 * math.log(size) for size in sizes]
    y = [math.log(count) for count in counts]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - mean_x) ** 2 for a in x)
