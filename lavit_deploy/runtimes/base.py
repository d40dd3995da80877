"""The interface that every runtime has.

Export's parity check, the profiler and the service open artifacts through it, so what was checked
is what is served.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from lavit_deploy.common.errors import InferenceError
from lavit_deploy.preprocess import Pixels

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TensorSpec:
    """Type and shape of an input; `None` stands for the batch size."""

    dtype: str
    shape: tuple[int | None, ...]


class Runtime(ABC):
    """An opened artifact. Use it as a context manager, or call `close`.

    Attributes:
        name: the runtime's name, such as "onnxruntime".
        device: where it computes, such as "cpu".
        max_batch: largest batch that `infer` accepts.
        input: type and shape of what `infer` takes.
    """

    name: str
    device: str
    max_batch: int
    input: TensorSpec

    def infer(self, images: Pixels) -> Logits:
        """Classify uint8 images [B, H, W, C], 1 <= B <= max_batch.

        Returns:
            Logits float32 [B, K].

        Raises:
            InferenceError: the batch does not fit the input, or the runtime failed.
        """
        expected = self.input.shape[1:]
        if images.dtype != np.uint8 or images.shape[1:] != expected or not len(images):
            raise InferenceError(
                f"{self.name} takes uint8 [1..{self.max_batch}, "
                f"{', '.join(str(size) for size in expected)}], "
                f"given {images.dtype} {list(images.shape)}"
            )
        if len(images) > self.max_batch:
            raise InferenceError(
                f"{self.name} takes at most {self.max_batch} images at once, given {len(images)}"
            )
        return self._infer(images)

    @abstractmethod
    def _infer(self, images: Pixels) -> Logits:
        """`infer` on a batch that is known to fit."""

    @abstractmethod
    def close(self) -> None:
        """Free what the runtime holds; safe to call twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
