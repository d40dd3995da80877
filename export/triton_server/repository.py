"""A Triton model repository: one model for each artifact of a bundle that Triton can serve.

triton/
  lavit_s-onnx-fp32/
    config.pbtxt
    labels.txt
    1/model.onnx
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.bundle.first_run import was_run
from lavit_deploy.common.errors import ExportError, UsageError
from lavit_deploy.export.triton_server.config import BACKENDS, LABELS, computes_in, config_text
from lavit_deploy.manifest import Artifact, Manifest
from lavit_deploy.runtimes.openvino import BF16_FEATURES

FOLDER = "triton"
"""The repository within a bundle."""


def check_names(name: str, classes: Sequence[str]) -> None:
    """Refuse names that a repository cannot hold, before anything is built.

    Raises:
        UsageError: the model's name is no folder's, or a class's has a line break or is empty.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise UsageError(
            f"--target triton-repo: the model's name {name!r} becomes a folder and a part of URLs: "
            "--name with letters, digits and _ . - are valid"
        )
    for index, label in enumerate(classes):
        if label.splitlines() != [label]:
            raise UsageError(
                f"--target triton-repo: {LABELS} has one class in each line; class {index} is "
                f"{label!r}: --classes gives other names"
            )


def labels_text(classes: Sequence[str]) -> str:
    """The text of `labels.txt`: one class in each line, in the order of the logits."""
    return "".join(f"{label}\n" for label in classes)


def model_name(manifest: Manifest, artifact: Artifact) -> str:
    """What Triton calls an artifact."""
    return f"{manifest.name}-{artifact.name}"


def obstacles(manifest: Manifest) -> dict[str, str]:
    """Why Triton cannot serve each artifact, by its name; empty where it can."""
    return {artifact.name: _obstacle(manifest, artifact) for artifact in manifest.artifacts}


def write_repository(bundle: Bundle) -> None:
    """Write the repository into a bundle that is being made.

    Files are hard links to the bundle's own where the file system has them.

    Raises:
        BundleError: an artifact's bytes are not those of the manifest.
        ExportError: there is nothing that Triton can serve.
    """
    manifest = bundle.manifest
    hindered = obstacles(manifest)
    able = [item for item in manifest.artifacts if not hindered[item.name]]
    if not able:
        reasons = "; ".join(f"{name} {why_not}" for name, why_not in hindered.items())
        raise ExportError(f"Triton can serve nothing of this bundle: {reasons}")
    for artifact in able:
        name = model_name(manifest, artifact)
        folder = bundle.path / FOLDER / name
        version = folder / "1"
        version.mkdir(parents=True)
        model = version / BACKENDS[artifact.runtime].file
        _link(bundle.verified_file(artifact), model)
        if artifact.runtime == "openvino":
            _link(_weights(bundle, artifact), model.with_suffix(".bin"))
        (folder / LABELS).write_text(labels_text(manifest.classes), "utf-8", newline="\n")
        (folder / "config.pbtxt").write_text(config_text(name, manifest, artifact), "utf-8")


def _obstacle(manifest: Manifest, artifact: Artifact) -> str:
    """Why Triton cannot serve an artifact, as a phrase after its name; empty if it can."""
    failure = artifact.failure
    engine = artifact.engine
    bf16_here = bool(BF16_FEATURES.intersection(manifest.environment.cpu_features))
    to_bf16 = artifact.runtime == "openvino" and computes_in(artifact) == "fp32" and bf16_here
    checks = (
        (failure is not None, f"failed parity ({failure.reason if failure else ''})"),
        (
            artifact.runtime not in BACKENDS,
            f"is of {artifact.runtime}, for which Triton has no backend",
        ),
        (not was_run(artifact), "was built without a GPU and never run"),
        (artifact.plugin is not None, f"needs the plugin {artifact.plugin}"),
        (engine is not None and engine.stripped, "holds no weights"),
        (
            artifact.batch.minimum > 1,
            f"takes {artifact.batch.minimum} pictures or more, and Triton may send one",
        ),
        (
            to_bf16,
            (
                "would compute in bfloat16 on a CPU such as this one: Triton's OpenVINO backend "
                "has no option for float32"
            ),
        ),
    )
    return next((text for applies, text in checks if applies), "")


def _weights(bundle: Bundle, artifact: Artifact) -> Path:
    """The file of an OpenVINO IR that its graph reads its weights from."""
    name = Path(artifact.file).with_suffix(".bin").name
    return next(bundle.path / extra.file for extra in artifact.extra_files if extra.file == name)


def _link(source: Path, destination: Path) -> None:
    try:
        os.link(source, destination)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, destination)
