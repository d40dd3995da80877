"""An artifact of a bundle to profile: counted by its architecture, timed in its runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.bundle.open import open_artifact
from lavit_deploy.bundle.selection import Criteria, select
from lavit_deploy.manifest import Artifact
from lavit_deploy.profiles.counting.cost_records import closed_form_counts, in_order
from lavit_deploy.profiles.counting.family_architecture import FamilyArchitecture
from lavit_deploy.profiles.counting.scaling import grow
from lavit_deploy.profiles.report.costs import Growth
from lavit_deploy.profiles.report.schema import ModelReport
from lavit_deploy.profiles.report.times import TimeSplit
from lavit_deploy.profiles.subjects.profiled_model import ProfiledModel, RunSettings

if TYPE_CHECKING:
    from lavit_deploy.profiles.timing.runner import Runner


def from_bundle(label: str, bundle: Bundle, name: str, settings: RunSettings) -> ArtifactModel:
    """An artifact by its name, or "auto" for the fastest that passed parity on the device.

    One that failed parity can be timed by its name, to see what its speed would have been.

    Raises:
        BundleError: no such artifact, or none that can be used here.
        UsageError: `settings` ask for another image size than the bundle's.
    """
    auto = name == "auto"
    artifact = (
        select(bundle, Criteria(device=settings.device)).artifact if auto else bundle.artifact(name)
    )
    settings.refuse_resizing(label, bundle.manifest.config.image_size)
    return ArtifactModel(label, bundle, artifact, settings)


@dataclass(frozen=True)
class ArtifactModel(ProfiledModel):
    """An artifact of a bundle in its runtime.

    Attributes:
        label: its name in reports.
        bundle: the bundle that holds it.
        artifact: it.
        settings: how it is run.
    """

    label: str
    bundle: Bundle
    artifact: Artifact
    settings: RunSettings

    @property
    def architecture(self) -> FamilyArchitecture:
        """What the bundle was made of."""
        return FamilyArchitecture(self.bundle.manifest.config)

    def measure(self) -> ModelReport:
        config = self.bundle.manifest.config
        parameters = self.architecture.parameters()
        return ModelReport(
            label=self.label,
            kind="artifact",
            runtime=f"{self.artifact.runtime} ({self.artifact.name})",
            precision=self.artifact.precision_found,
            attention="graph",
            image_size=config.image_size,
            parameters=parameters.total(),
            parameters_by_part=in_order(parameters),
            counts=closed_form_counts(self.architecture.closed_form()),
            notes=(
                "counts are the architecture's; the exported graph may hold fewer operations",
                "uint8 input: normalisation is part of a call",
                *(
                    ()
                    if self.artifact.parity.passed
                    else (f"this artifact failed parity: {self.artifact.parity.reason}",)
                ),
            ),
        )

    def split(self, batch: int, calls: int) -> TimeSplit | None:
        if self.settings.device != "cpu":
            return None  # a node profile on a GPU would time the launch of kernels
        from lavit_deploy.profiles.breakdown.node_times import artifact_split

        return artifact_split(
            self.bundle, self.artifact, batch=batch, calls=calls, threads=self.settings.threads
        )

    def growth(self, sizes: Sequence[int]) -> Growth:
        return grow(sizes, lambda size: self.architecture.at(size).closed_form())

    def open(self) -> Runner:
        from lavit_deploy.profiles.timing.artifact_runner import ArtifactRunner

        runtime = open_artifact(
            self.bundle, self.artifact, device=self.settings.device, threads=self.settings.threads
        )
        return ArtifactRunner(self.label, runtime)
