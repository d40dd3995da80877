"""A family of baselines: all that the profiler must know about it, in one object."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

from lavit_deploy.common.errors import ConfigError, UsageError
from lavit_deploy.profiles.counting.architecture import Attention
from lavit_deploy.profiles.counting.module_rules import ModuleRules
from lavit_deploy.profiles.counting.stage_counts import StageCounts

if TYPE_CHECKING:
    from torch import nn

Implementation = Literal["transformers", "reference module"]
"""Whose code computes: that of `transformers`, or a module of this project."""

_SEED = 0


class BaselineConfig(Protocol):
    """Sizes of a baseline: a frozen dataclass of any fields, with these among them."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def image_size(self) -> tuple[int, int]:
        """Input height and width, pixels."""

    @property
    def num_classes(self) -> int:
        """Outputs of the classifier."""


ConfigT = TypeVar("ConfigT", bound=BaselineConfig)


@dataclass(frozen=True)
class Published:
    """What is printed about one model for one image and 1000 classes.

    Attributes:
        parameters_m: parameters, millions.
        gflops: multiply-adds of one image, 10^9.
        source: where.
    """

    parameters_m: float
    gflops: float
    source: str


@dataclass(frozen=True)
class Variant(Generic[ConfigT]):
    """One published model of a family.

    Attributes:
        name: on the command line.
        config: its sizes.
        published: the authors' counts; None where none were found for this variant.
        notes: what a reader must know about it.
    """

    name: str
    config: ConfigT
    published: Published | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BaselineFamily(Generic[ConfigT]):
    """Models that one formula, one builder and one naming of modules describe.

    Attributes:
        name: for people; unique in the catalogue.
        implementation: whose code computes.
        build: a model in training mode from its sizes, with fused attention where it has a choice
            and "sdpa" is asked for. Imports what it needs itself: a catalogue is read where PyTorch
            is not installed.
        module_rules: where the modules of such a model belong.
        variants: the published models.
        counts: multiply-adds in closed form; None from it for a variant without, None in its
            place for a family without.
        least_size: smallest side of the input, pixels.
        size_step: step from one possible side to the next, pixels.
    """

    name: str
    implementation: Implementation
    build: Callable[[ConfigT, Attention], nn.Module]
    module_rules: ModuleRules
    variants: tuple[Variant[ConfigT], ...]
    counts: Callable[[ConfigT], StageCounts | None] | None = None
    least_size: int = 32
    size_step: int = 32

    def baselines(self) -> Iterator[Baseline]:
        """Every variant with this family."""
        for one in self.variants:
            yield Baseline(one.name, one.config, one.published, one.notes, family=self)


@dataclass(frozen=True)
class Baseline(Variant[Any]):
    """One published model that can be built and counted: an `Architecture`.

    Attributes:
        family: what it has in common with others.
    """

    family: BaselineFamily[Any] = dataclasses.field(kw_only=True)

    @property
    def image_size(self) -> tuple[int, int]:
        """Input height and width, pixels."""
        size: tuple[int, int] = self.config.image_size
        return size

    @property
    def in_channels(self) -> int:
        """Input channels: every baseline was published for RGB."""
        return 3

    @property
    def module_rules(self) -> ModuleRules:
        """Where its modules belong."""
        return self.family.module_rules

    def at(self, image_size: int | None) -> Baseline:
        """The same model for square pictures of `image_size` pixels; None keeps the published size.

        At another size nothing is published.

        Raises:
            UsageError: the architecture does not exist at that size.
        """
        if image_size is None or self.image_size == (image_size, image_size):
            return self
        try:
            config = dataclasses.replace(self.config, image_size=(image_size, image_size))
        except ConfigError as error:
            raise UsageError(f"{self.name} at {image_size} pixels: {error}") from None
        least, step = self.family.least_size, self.family.size_step
        if image_size < least or image_size % step:
            raise UsageError(
                f"{self.name} cannot take {image_size} pixels: "
                f"a multiple of {step} from {least} upwards is needed"
            )
        return dataclasses.replace(self, config=config, published=None)

    def closed_form(self) -> StageCounts | None:
        """Multiply-adds by stage and part; None where there is no closed form."""
        return None if self.family.counts is None else self.family.counts(self.config)

    def build(self, attention: Attention) -> nn.Module:
        """The model in evaluation mode, float32, with reproducible random weights.

        `forward(images [B, 3, H, W])` gives logits [B, K], or an object that has them as `logits`.
        Under `torch.device("meta")` it has shapes and no weights.
        """
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            return self.family.build(self.config, attention).eval()
