"""From bundles on disk to models that can be served: checked, chosen and opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.bundle.measurement import measure, save
from lavit_deploy.bundle.open import open_artifact
from lavit_deploy.bundle.selection import Criteria, Selection, select
from lavit_deploy.manifest import Artifact, Manifest
from lavit_deploy.runtimes.base import Runtime
from lavit_deploy.serving.models.status import ModelIdentity
from lavit_deploy.serving.settings.model_source import ModelKey, ModelSource, keys_of
from lavit_deploy.serving.settings.settings import ServiceSettings
from lavit_deploy.tasks.catalogue import AnyTask, find_task


@dataclass(frozen=True)
class OpenedModel:
    """An opened artifact, what its bundle says about it, and what it is called here.

    Attributes:
        key: its name and version.
        source: where it came from.
        manifest: the bundle's manifest.
        artifact: the artifact that was opened.
        runtimes: the artifact, opened once for each instance.
        reopen: opens it once more, its file's hash checked again; blocks, may raise `LavitError`.
        selection: why this artifact, for the operator.
    """

    key: ModelKey
    source: ModelSource
    manifest: Manifest
    artifact: Artifact
    runtimes: tuple[Runtime, ...]
    reopen: Callable[[], Runtime]
    selection: Selection

    @cached_property
    def task(self) -> AnyTask:
        """What its outputs mean."""
        return find_task(self.manifest.task).of(self.manifest)

    @cached_property
    def id(self) -> ModelIdentity:
        """What answers name it by."""
        return ModelIdentity(
            name=self.key.name,
            version=self.key.version,
            artifact=self.artifact.name,
            checkpoint=self.manifest.checkpoint.sha256[:12],
        )

    def close(self) -> None:
        """Free the runtimes."""
        for runtime in self.runtimes:
            runtime.close()


def open_models(settings: ServiceSettings) -> list[OpenedModel]:
    """Open every bundle that the settings name.

    Raises:
        LavitError: one of them cannot be used; says which and why. None stays open then.
    """
    bundles = [Bundle.open(source.path) for source in settings.sources]
    pairs = zip(settings.sources, bundles, strict=True)
    keys = keys_of((source, bundle.manifest.name) for source, bundle in pairs)
    with ExitStack() as undo:
        models = []
        for source, bundle, key in zip(settings.sources, bundles, keys, strict=True):
            models.append(open_model(source, bundle, key, settings))
            undo.callback(models[-1].close)
        undo.pop_all()
    return models


def open_model(
    source: ModelSource, bundle: Bundle, key: ModelKey, settings: ServiceSettings
) -> OpenedModel:
    """Choose an artifact of a bundle, check its hash and parity, and open it.

    Args:
        source: where the bundle lies.
        bundle: it, its manifest read.
        key: what it will be called.
        settings: which artifact, where, with how many threads and instances.

    Raises:
        BundleError: nothing in it runs here, or a file is missing or altered.
        ParityError: what could run failed parity.
        UsageError: more instances than threads.
    """
    criteria = Criteria(settings.artifact, settings.runtime, settings.device, settings.agreement)
    selection = select(bundle, criteria)
    reopen = partial(
        open_artifact,
        bundle,
        selection.artifact,
        device=settings.device,
        threads=settings.instance_threads,
        spin=False,  # decoders work on the same cores
    )
    with ExitStack() as undo:
        runtimes = tuple(undo.enter_context(reopen()) for _ in range(settings.instances))
        undo.pop_all()
    return OpenedModel(
        key, source, bundle.manifest, selection.artifact, runtimes, reopen, selection
    )


def measure_all(sources: Sequence[ModelSource], settings: ServiceSettings) -> None:
    """Measure every artifact of every bundle on this machine, and keep the results in them."""
    for source in sources:
        bundle = measure(
            Bundle.open(source.path),
            device=settings.device,
            threads=settings.threads,
            progress=lambda step: print(f"measure   {step}", flush=True),
        )
        save(bundle)
