"""Ranges of activations on real pictures: the step of a symmetric int8, by three methods.

- min-max: 127 steps reach the largest magnitude seen; nothing is cut off.
- percentile: 127 steps reach the 99.99th percentile of magnitudes; few outliers then do not make
  every other value coarse.
- mse: the step with the least mean squared error of rounding plus cutting off.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx

from lavit_deploy.preprocess import Pixels
from lavit_deploy.runtimes.onnxruntime import import_onnxruntime

Method = Literal["min-max", "percentile", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)

LEVELS = 127
"""Largest magnitude of a symmetric int8."""

_BINS = 2048
_PERCENTILE = 0.9999
_BATCH = 4
_MOST_VALUES = 65_536  # of one tensor and batch; evenly strided, counts are not scaled
_CANDIDATES = 64
_TINY = 1e-12


@dataclass(frozen=True)
class Histogram:
    """Magnitudes of one activation over all calibration pictures.

    Attributes:
        counts: number of values in each of equal bins from 0 to `largest`.
        largest: the largest magnitude, taken over every value.
    """

    counts: npt.NDArray[np.int64]
    largest: float

    def step(self, method: Method) -> float:
        """The step of int8 that a method chooses; positive."""
        if method == "min-max":
            limit = self.largest
        elif method == "percentile":
            limit = self._percentile()
        else:
            limit = self._least_squares()
        return max(limit, _TINY) / LEVELS

    def _percentile(self) -> float:
        shares = np.cumsum(self.counts) / max(self.counts.sum(), 1)
        return float((np.searchsorted(shares, _PERCENTILE) + 1) / _BINS * self.largest)

    def _least_squares(self) -> float:
        edges = np.arange(_BINS + 1) * (max(self.largest, _TINY) / _BINS)
        limits = np.linspace(0.05, 1.0, _CANDIDATES) * edges[-1]
        return float(min(limits, key=lambda limit: self._error(edges, limit)))

    def _error(self, edges: npt.NDArray[np.floating], limit: float) -> float:
        """Squared error of rounding up to `limit` and cutting there; bins are spread evenly."""
        mean = np.diff(_error_integral(edges, limit)) / np.diff(edges)  # of each bin
        return float((self.counts * mean).sum())


def _error_integral(values: npt.NDArray[np.floating], limit: float) -> npt.NDArray[np.floating]:
    """Integral from 0 to each value of the squared error of int8 whose largest value is `limit`.

    In closed form: step^3 / 12 for each whole step, the cube of the rest, and beyond the limit
    the cube of what is cut off.
    """
    step = limit / LEVELS
    within = np.minimum(values, limit)
    whole = np.rint(within / step)
    rest = within - whole * step
    return whole * step**3 / 12 + rest**3 / 3 + np.maximum(values - limit, 0.0) ** 3 / 3


def collect(
    graph: onnx.ModelProto, names: Iterable[str], images: Pixels | npt.NDArray[np.float32]
) -> dict[str, Histogram]:
    """Histograms of some values of a float32 graph.

    The pictures are run twice: for the largest magnitudes, then for the counts.

    Args:
        graph: the float32 graph, with inferred types.
        names: values to look at.
        images: what the graph takes; of this project's, uint8 [N, H, W, 3].
    """
    wanted = list(dict.fromkeys(names))
    session = _session(graph, wanted)
    largest = dict.fromkeys(wanted, 0.0)
    for values in _runs(session, wanted, images):
        for name, value in values.items():
            largest[name] = max(largest[name], float(np.abs(value).max()))
    counts = {name: np.zeros(_BINS, dtype=np.int64) for name in wanted}
    for values in _runs(session, wanted, images):
        for name, value in values.items():
            flat = np.abs(value).ravel()
            flat = flat[:: max(1, flat.size // _MOST_VALUES)]
            bins = (flat * (_BINS / max(largest[name], _TINY))).astype(np.int64)
            counts[name] += np.bincount(np.minimum(bins, _BINS - 1), minlength=_BINS)
    return {name: Histogram(counts[name], largest[name]) for name in wanted}


def steps(histograms: Mapping[str, Histogram], method: Method) -> dict[str, float]:
    """The step of every activation by one method."""
    return {name: histogram.step(method) for name, histogram in histograms.items()}


def _session(graph: onnx.ModelProto, names: Sequence[str]):  # type: ignore[no-untyped-def] # noqa: ANN202 # onnxruntime has no types
    opened = onnx.ModelProto()
    opened.CopyFrom(graph)
    present = {value.name for value in graph.graph.output}
    types = {value.name: value for value in graph.graph.value_info}
    opened.graph.output.extend(types[name] for name in names if name not in present)
    return import_onnxruntime().InferenceSession(
        opened.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def _runs(session, names: Sequence[str], images: Pixels | npt.NDArray[np.float32]):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202 # onnxruntime has no types
    feed = session.get_inputs()[0].name
    for start in range(0, len(images), _BATCH):
        found = session.run(list(names), {feed: images[start : start + _BATCH]})
        yield dict(zip(names, found, strict=True))
