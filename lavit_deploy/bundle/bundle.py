"""A bundle on disk: a folder of artifacts and the `manifest.json` that says what they are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from lavit_deploy.common.atomic_files import sha256_of, write_text
from lavit_deploy.common.errors import BundleError, ConfigError
from lavit_deploy.common.validation import problems
from lavit_deploy.manifest import READABLE, Artifact, Manifest
from lavit_deploy.tasks.catalogue import AnyTask, find_task

MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder and its manifest."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Read and check a bundle's manifest; artifacts are verified when they are chosen.

        Raises:
            BundleError: no such folder, no manifest, or a manifest of another schema.
        """
        file = path / MANIFEST_NAME
        try:
            there, described = path.is_dir(), file.is_file()
        except OSError as error:  # not allowed, or a name that is too long
            raise BundleError(f"no bundle at {path}: {error.strerror}") from None
        if not there:
            raise BundleError(f"no bundle at {path}: expected a folder written by lavit-export")
        if not described:
            raise BundleError(f"{path} has no {MANIFEST_NAME}: it is not a bundle of lavit-export")
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise BundleError(f"{file} cannot be read as JSON: {error}") from None
        if not isinstance(values, dict):
            raise BundleError(f"{file} holds a {type(values).__name__}, expected an object")
        version = values.get("schema_version")
        if version not in READABLE:
            raise BundleError(
                f"{file} has schema version {version!r}; this version reads {READABLE[0]} to "
                f"{READABLE[-1]}: export the checkpoint again"
            )
        try:
            bundle = cls(path, Manifest.model_validate(values))
            find_task(bundle.manifest.task)
        except ValidationError as error:
            raise BundleError(f"{file} is not a valid manifest: {problems(error)}") from None
        except ConfigError as error:
            raise BundleError(f"{file} holds an impossible model: {error}") from None
        return bundle

    @cached_property
    def task(self) -> AnyTask:
        """What its model's outputs mean."""
        return find_task(self.manifest.task).of(self.manifest)

    @staticmethod
    def write_manifest(path: Path, manifest: Manifest) -> None:
        """Write `manifest` into the folder `path`."""
        write_text(path / MANIFEST_NAME, manifest.model_dump_json(indent=2) + "\n")

    def artifact(self, name: str) -> Artifact:
        """The artifact called `name`.

        Raises:
            BundleError: there is none; lists those there are.
        """
        for artifact in self.manifest.artifacts:
            if artifact.name == name:
                return artifact
        names = ", ".join(artifact.name for artifact in self.manifest.artifacts) or "none"
        raise BundleError(f"{self.path} has no artifact {name!r}; it has {names}")

    def verified_file(self, artifact: Artifact) -> Path:
        """Path of an artifact's file, once the bytes of all its files are what the manifest says.

        Raises:
            BundleError: missing, outside the bundle, or with another hash.
        """
        for extra in artifact.extra_files:
            self._verified(extra.file, extra.sha256)
        return self._verified(artifact.file, artifact.sha256)

    def _verified(self, name: str, expected: str) -> Path:
        file = (self.path / name).resolve()
        if not file.is_relative_to(self.path.resolve()):
            raise BundleError(f"the manifest names {name}, outside the bundle")
        if not file.is_file():
            raise BundleError(f"{file} is missing: the bundle is incomplete")
        found = sha256_of(file)
        if found != expected:
            raise BundleError(
                f"{file} is not the file that was exported: sha256 {found[:12]}…, "
                f"the manifest says {expected[:12]}…"
            )
        return file
