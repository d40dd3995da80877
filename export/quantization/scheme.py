"""The one scheme of an export: what is quantized, with which ranges, and what each block costs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx

from lavit_deploy.export.quantization.accuracy_loss import relative_error
from lavit_deploy.export.quantization.activation_ranges import (
    METHODS,
    Histogram,
    Method,
    collect,
    steps,
)
from lavit_deploy.export.quantization.calibration import LabelledPictures
from lavit_deploy.export.quantization.qdq import insert
from lavit_deploy.export.quantization.quantizable_nodes import Product, blocks, products
from lavit_deploy.preprocess import Pixels
from lavit_deploy.runtimes.base import Logits
from lavit_deploy.runtimes.onnxruntime import import_onnxruntime

_TRIAL_PICTURES = 16
"""Pictures that methods and blocks are compared on, evenly spread over the calibration ones."""

_BATCH = 8


@dataclass(frozen=True)
class Scheme:
    """Int8 of one float32 graph.

    Attributes:
        file: the float32 graph on disk.
        graph: its content, with inferred types.
        calibration: pictures that ranges are taken from.
    """

    file: Path
    graph: onnx.ModelProto
    calibration: LabelledPictures

    @cached_property
    def products(self) -> tuple[Product, ...]:
        """What may be quantized."""
        return products(self.graph)

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """The parts of the model that can return to float, in the order of computation."""
        return blocks(self.products)

    @cached_property
    def histograms(self) -> dict[str, Histogram]:
        """Magnitudes of every activation that is quantized."""
        names = [product.activation for product in self.products]
        return collect(self.graph, names, self.calibration.images)

    @cached_property
    def method_errors(self) -> dict[Method, float]:
        """Relative error of the logits by each method of taking ranges, all blocks in int8."""
        return {
            method: relative_error(self._try(self.quantized(method=method)), self._trial_logits)
            for method in METHODS
        }

    @cached_property
    def method(self) -> Method:
        """The method with the least measured error."""
        return min(METHODS, key=lambda method: self.method_errors[method])

    @cached_property
    def sensitivity(self) -> dict[str, float]:
        """Relative error of the logits with one block alone in int8, by block."""
        return self._alone(lambda others: self.quantized(float_blocks=others))

    @cached_property
    def weights_sensitivity(self) -> dict[str, float]:
        """The same with int8 weights alone."""
        return self._alone(lambda others: self.weights(float_blocks=others))

    def quantized(
        self, *, float_blocks: Collection[str] = (), method: Method | None = None
    ) -> onnx.ModelProto:
        """The graph with Q/DQ.

        Args:
            float_blocks: blocks that stay float.
            method: how ranges are taken; default: the best.
        """
        chosen = steps(self.histograms, method or self.method)
        return insert(self.graph, self.products, chosen, float_blocks=float_blocks)

    def weights(self, *, float_blocks: Collection[str] = ()) -> onnx.ModelProto:
        """The graph with int8 weights, and activations as they are."""
        return insert(self.graph, self.products, None, float_blocks=float_blocks)

    def _alone(self, graph_with: Callable[[list[str]], onnx.ModelProto]) -> dict[str, float]:
        errors = {}
        for block in self.blocks:
            graph = graph_with([name for name in self.blocks if name != block])
            errors[block] = relative_error(self._try(graph), self._trial_logits)
        return errors

    @cached_property
    def _trial(self) -> Pixels:
        return self.calibration.first(_TRIAL_PICTURES).images

    @cached_property
    def _trial_logits(self) -> Logits:
        return self._try(self.graph)

    def _try(self, graph: onnx.ModelProto) -> Logits:
        return run_graph(graph, self._trial)


def run_graph(graph: onnx.ModelProto, images: Pixels) -> Logits:
    """Logits [N, K] of a graph in ONNX Runtime on the CPU."""
    import numpy as np

    session = import_onnxruntime().InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    parts = [
        session.run(None, {name: images[start : start + _BATCH]})[0]
        for start in range(0, len(images), _BATCH)
    ]
    return np.concatenate(parts)
