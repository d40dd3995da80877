"""A model ready to be timed, whatever runs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Literal

from lavit_deploy.common.errors import InferenceError

TorchRuntime = Literal["torch", "torch-compile", "cuda-graph"]
"""What can run a PyTorch model: eager, compiled, or captured as a CUDA graph."""

Precision = Literal["fp32", "bf16", "fp16"]
"""Of a PyTorch model's matrix products and convolutions."""


class BatchTooLargeError(InferenceError):
    """A batch that does not fit into memory; a smaller one may."""


class Runner(AbstractContextManager["Runner"], ABC):
    """A model ready to be timed; a context manager.

    Attributes:
        label: the model's name in reports.
        max_batch: largest batch that it takes; None for no limit of its own.
    """

    label: str
    max_batch: int | None = None

    @abstractmethod
    def prepare(self, batch: int) -> None:
        """Make an input of `batch` images."""

    @abstractmethod
    def call(self) -> float:
        """Run the prepared input once; seconds until its result is there.

        Raises:
            BatchTooLargeError: it does not fit into memory.
            InferenceError: the model cannot run that batch for another reason.
        """

    def peak_memory(self) -> int | None:
        """Most bytes of tensors alive at once during a call, without weights; None if unknown."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Free what the runner holds."""

    def __exit__(self, *_: object) -> None:
        self.close()
