"""An artifact of a bundle to be timed in its runtime."""

from __future__ import annotations

import time

import numpy as np

from lavit_deploy.profiles.timing.runner import Runner
from lavit_deploy.runtimes.base import Runtime

_SEED = 0


class ArtifactRunner(Runner):
    """An artifact of a bundle, fed uint8 images as the service feeds it.

    A call is timed from NumPy to NumPy: normalisation, and on a GPU both copies, are included.

    Args:
        label: name in reports.
        runtime: the opened artifact; closed with the runner.
    """

    def __init__(self, label: str, runtime: Runtime) -> None:
        self.label = label
        self.max_batch = runtime.max_batch
        self._runtime = runtime
        self._images = np.empty(0, np.uint8)

    def prepare(self, batch: int) -> None:
        shape = [batch if size is None else size for size in self._runtime.input.shape]
        self._images = np.random.default_rng(_SEED).integers(0, 256, shape, dtype=np.uint8)

    def call(self) -> float:
        started = time.perf_counter()
        self._runtime.infer(self._images)
        return time.perf_counter() - started

    def close(self) -> None:
        self._runtime.close()
