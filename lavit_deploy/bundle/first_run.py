"""The first run of an engine that was built where it could not run.

Such an engine's recorded parity is that of the graph it was built from. It carries pictures and the
float32 model's logits of them; the first GPU it meets runs them, and it is served only after that.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.common.atomic_files import atomic_path, sha256_of
from lavit_deploy.common.errors import BundleError
from lavit_deploy.manifest import Artifact, ExtraFile, Parity
from lavit_deploy.preprocess import Pixels
from lavit_deploy.runtimes.base import Logits, Runtime

PICTURES_FILE = "verification.npz"
_MOST_PICTURES = 16


def write_pictures(folder: Path, images: Pixels, reference: Logits) -> ExtraFile:
    """Keep some pictures and the float32 model's logits of them in a bundle.

    Args:
        folder: the bundle.
        images: uint8 [B, H, W, C]; at most 16 are kept, evenly spread.
        reference: logits [B, K].
    """
    file = folder / PICTURES_FILE
    if not file.exists():
        chosen = np.unique(
            np.linspace(0, len(images) - 1, min(_MOST_PICTURES, len(images))).round().astype(int)
        )
        with atomic_path(file) as temporary:
            np.savez_compressed(temporary, images=images[chosen], logits=reference[chosen])
    return ExtraFile(file=file.name, sha256=sha256_of(file), size_bytes=file.stat().st_size)


def was_run(artifact: Artifact) -> bool:
    """Whether the artifact itself was ever compared, and not only the graph it was built from."""
    return artifact.engine is None or artifact.parity.method == "run"


def verify(bundle: Bundle, artifact: Artifact, runtime: Runtime) -> Parity:
    """Run an opened engine on the bundle's pictures and judge it.

    Args:
        bundle: the bundle it belongs to; its files are verified.
        artifact: the engine's entry.
        runtime: the engine, opened on the machine that will serve it.

    Raises:
        BundleError: the bundle holds no pictures to compare on, or unreadable ones.
    """
    file = bundle.path / PICTURES_FILE
    try:
        with np.load(file) as content:
            images, reference = content["images"], content["logits"]
    except (OSError, KeyError, ValueError) as error:
        raise BundleError(
            f"{file} cannot be read, so {artifact.name} cannot be verified: {error}"
        ) from None
    size = min(runtime.max_batch, artifact.batch.optimum)
    parts = [runtime.infer(images[:1])]  # another batch size than the others
    parts += [runtime.infer(images[start : start + size]) for start in range(1, len(images), size)]
    return bundle.task.compare(
        np.concatenate(parts),
        reference,
        artifact.precision_requested,
        source=f"the bundle's {len(images)} pictures, on this GPU",
    )
