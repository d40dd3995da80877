"""From the times of modules or graph nodes to the times of stages and parts."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lavit_deploy.profiles.counting.parts import NOWHERE, PARTS, Place
from lavit_deploy.profiles.report.times import TimeCell, TimeSplit

_NAMED = 5
"""How many of the largest things without a place are named."""

OUTSIDE = "between operators"
"""Name of the part of a call in which no module or node was running."""


class CallTimes(NamedTuple):
    """One call.

    Attributes:
        own: module or node -> seconds.
        total: seconds of the whole call, at least their sum.
    """

    own: Mapping[str, float]
    total: float


def time_by_part(
    calls: Sequence[CallTimes], places: Mapping[str, Place], *, method: str, batch: int
) -> TimeSplit:
    """Medians over calls, by stage and part.

    Args:
        calls: at least one.
        places: module or node -> where it belongs; what is missing belongs nowhere.
        method: how it was measured.
        batch: images per call.
    """
    cells: defaultdict[Place, list[float]] = defaultdict(list)
    nowhere: defaultdict[str, list[float]] = defaultdict(list)
    for index, call in enumerate(calls):
        for name, seconds in (*call.own.items(), (OUTSIDE, call.total - sum(call.own.values()))):
            place = places.get(name, NOWHERE)
            found = nowhere[name] if place == NOWHERE else cells[place]
            found.extend([0.0] * (index + 1 - len(found)))
            found[index] += seconds
    total = statistics.median(call.total for call in calls)
    times = {place: _median(found, len(calls)) for place, found in cells.items()}
    lost = {name: _median(found, len(calls)) for name, found in nowhere.items()}
    largest = sorted(lost, key=lost.__getitem__, reverse=True)[:_NAMED]
    return TimeSplit(
        method=method,
        batch=batch,
        calls=len(calls),
        cells=tuple(
            TimeCell(stage=place.stage, part=place.part, milliseconds=1000 * times[place])
            for place in sorted(times, key=_order)
        ),
        total_ms=1000 * total,
        # Medians do not add up exactly.
        unattributed_ms=1000 * max(0.0, total - sum(times.values())),
        unattributed=tuple(name or "the model itself" for name in largest),
    )


def _median(found: Sequence[float], calls: int) -> float:
    return statistics.median([*found, *[0.0] * (calls - len(found))])


def _order(place: Place) -> tuple[bool, str, int]:
    return not place.stage.startswith("stage"), place.stage, PARTS.index(place.part)
