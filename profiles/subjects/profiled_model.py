"""A model that can be counted and timed, and how models are run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lavit_deploy.common.errors import UsageError
from lavit_deploy.manifest import Device
from lavit_deploy.profiles.counting.architecture import Attention
from lavit_deploy.profiles.report.costs import Growth
from lavit_deploy.profiles.report.schema import ModelReport
from lavit_deploy.profiles.report.times import TimeSplit
from lavit_deploy.profiles.timing.runner import Precision, TorchRuntime

if TYPE_CHECKING:
    from lavit_deploy.profiles.timing.runner import Runner


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How models are built and run.

    Attributes:
        device: where to compute.
        threads: threads within an operator on the CPU.
        precision: of PyTorch models; an artifact has its own.
        runtime: of PyTorch models.
        attention: implementation in the baselines; LaViT needs its scores, so it has no choice.
        image_size: side in pixels for presets and baselines; None for each one's own.
    """

    device: Device = "cpu"
    threads: int = 1
    precision: Precision = "fp32"
    runtime: TorchRuntime = "torch"
    attention: Attention = "sdpa"
    image_size: int | None = None

    def refuse_resizing(self, label: str, image_size: tuple[int, int]) -> None:
        """Refuse another image size than the one that weights were made for.

        Raises:
            UsageError: another one is asked for.
        """
        if self.image_size is not None and image_size != (self.image_size, self.image_size):
            raise UsageError(
                f"{label} takes {image_size[0]} x {image_size[1]} pixels, its weights are made for "
                f"that; --image-size {self.image_size} can change presets and baselines only"
            )


class ProfiledModel(ABC):
    """A model to profile.

    Attributes:
        label: its name in reports.
    """

    label: str

    @abstractmethod
    def measure(self) -> ModelReport:
        """Count parameters and multiply-adds."""

    @abstractmethod
    def open(self) -> Runner:
        """Make it ready to be timed."""

    @abstractmethod
    def split(self, batch: int, calls: int) -> TimeSplit | None:
        """Measure where the time of a call goes.

        Args:
            batch: images per call.
            calls: calls to take the median over, after a few untimed ones.

        Returns:
            None for a runtime that does not tell.
        """

    @abstractmethod
    def growth(self, sizes: Sequence[int]) -> Growth:
        """Multiply-adds at other image sizes.

        Args:
            sizes: sides of square images, pixels; at least two.

        Raises:
            UsageError: the architecture does not exist at one of them.
        """
