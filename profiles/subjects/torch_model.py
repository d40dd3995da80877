"""A PyTorch model to profile: traced, timed, its time split by module."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lavit_deploy.profiles.baselines import Published
from lavit_deploy.profiles.counting.architecture import Architecture, Attention
from lavit_deploy.profiles.counting.cost_records import (
    cells,
    in_order,
    module_costs,
    operator_costs,
    traced_counts,
)
from lavit_deploy.profiles.counting.scaling import grow
from lavit_deploy.profiles.counting.stage_counts import StageCounts
from lavit_deploy.profiles.extra import profile_extra
from lavit_deploy.profiles.report.costs import Growth, PublishedCounts
from lavit_deploy.profiles.report.schema import ModelReport
from lavit_deploy.profiles.report.times import TimeSplit
from lavit_deploy.profiles.subjects.profiled_model import ProfiledModel, RunSettings

if TYPE_CHECKING:
    from torch import nn

    from lavit_deploy.profiles.timing.runner import Runner


@dataclass(frozen=True, kw_only=True)
class TorchModel(ProfiledModel):
    """A PyTorch model with random or trained weights.

    Attributes:
        label: its name in reports.
        kind: where it came from.
        architecture: its sizes, counts and modules' names.
        model: float32, on the CPU.
        settings: how it is run.
        attention: implementation of its attention.
        published: its authors' counts, None where there are none at this size.
        notes: what a reader must know about its numbers.
    """

    label: str
    kind: Literal["preset", "checkpoint", "baseline"]
    architecture: Architecture
    model: nn.Module
    settings: RunSettings
    attention: Attention
    published: Published | None = None
    notes: tuple[str, ...] = ()

    def measure(self) -> ModelReport:
        with profile_extra("count multiply-adds"):
            import torch

            from lavit_deploy.profiles.counting.trace import (
                parameters_by_place,
                summed_by_part,
                trace,
            )
        rules = self.architecture.module_rules
        height, width = self.architecture.image_size
        generator = torch.Generator().manual_seed(0)  # PPT's work depends on the picture
        image = torch.randn(1, self.architecture.in_channels, height, width, generator=generator)
        traced = trace(self.model, image, rules)
        places = parameters_by_place(self.model, rules)
        parameters = summed_by_part(places)
        return ModelReport(
            label=self.label,
            kind=self.kind,
            runtime=self.settings.runtime,
            precision=self.settings.precision,
            attention=self.attention,
            image_size=(height, width),
            parameters=parameters.total(),
            parameters_by_part=in_order(parameters),
            counts=traced_counts(traced, self.architecture.closed_form()),
            published=(
                PublishedCounts(**dataclasses.asdict(self.published)) if self.published else None
            ),
            notes=self.notes,
            cells=cells(traced, places),
            operators=operator_costs(traced),
            modules=module_costs(traced, self.model),
        )

    def split(self, batch: int, calls: int) -> TimeSplit | None:
        if self.settings.runtime != "torch":
            return None  # a compiled graph has no modules left
        with profile_extra("measure modules"):
            from lavit_deploy.profiles.breakdown.module_times import ModuleTimes
            from lavit_deploy.profiles.timing.torch_runner import torch_threads
        rules = self.architecture.module_rules
        with torch_threads(self.settings.threads), self.open() as runner:
            runner.prepare(batch)
            with ModuleTimes(self.model, self.settings.device) as times:
                return times.split(runner.call, rules, batch=batch, calls=calls)

    def growth(self, sizes: Sequence[int]) -> Growth:
        return grow(sizes, self._counts_at)

    def _counts_at(self, size: int) -> StageCounts:
        """Multiply-adds for square images of `size` pixels."""
        resized = self.architecture.at(size)
        counts = resized.closed_form()
        if counts is not None:
            return counts
        with profile_extra("count multiply-adds"):
            import torch

            from lavit_deploy.profiles.counting.trace import trace
        model = resized.build(self.settings.attention)
        image = torch.zeros(1, resized.in_channels, size, size)
        return trace(model, image, resized.module_rules).by_stage

    def open(self) -> Runner:
        from lavit_deploy.profiles.timing.torch_runner import TorchRunner

        return TorchRunner(
            self.label,
            self.model,
            self.architecture.image_size,
            channels=self.architecture.in_channels,
            device=self.settings.device,
            precision=self.settings.precision,
            runtime=self.settings.runtime,
        )
