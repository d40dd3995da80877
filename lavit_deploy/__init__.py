"""From a trained LaViT checkpoint to a checked bundle, a service and a profile.

The names of `__all__` are public; what is imported from deeper is internal and may move. They are
loaded when they are first used: importing this package imports no framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lavit_deploy.bundle.bundle import Bundle as Bundle
    from lavit_deploy.bundle.inference import classify as classify
    from lavit_deploy.bundle.inference import open_runtime as open_runtime
    from lavit_deploy.checkpoint import load_checkpoint as load_checkpoint
    from lavit_deploy.common.errors import BundleError as BundleError
    from lavit_deploy.common.errors import CheckpointError as CheckpointError
    from lavit_deploy.common.errors import ImageError as ImageError
    from lavit_deploy.common.errors import LavitError as LavitError
    from lavit_deploy.common.errors import ParityError as ParityError
    from lavit_deploy.common.errors import UsageError as UsageError
    from lavit_deploy.export.api import export_checkpoint as export_checkpoint
    from lavit_deploy.manifest import Artifact as Artifact
    from lavit_deploy.manifest import Manifest as Manifest
    from lavit_deploy.model.config import LaViTConfig as LaViTConfig
    from lavit_deploy.model.lavit import LaViT as LaViT
    from lavit_deploy.preprocess import Preprocess as Preprocess

__version__ = "0.2.0.dev0"

_PLACES = {
    "Artifact": "manifest",
    "Bundle": "bundle.bundle",
    "BundleError": "common.errors",
    "CheckpointError": "common.errors",
    "ImageError": "common.errors",
    "LaViT": "model.lavit",
    "LaViTConfig": "model.config",
    "LavitError": "common.errors",
    "Manifest": "manifest",
    "ParityError": "common.errors",
    "Preprocess": "preprocess",
    "UsageError": "common.errors",
    "classify": "bundle.inference",
    "export_checkpoint": "export.api",
    "load_checkpoint": "checkpoint",
    "open_runtime": "bundle.inference",
}
"""Where each public name is defined. The function is `export_checkpoint`: `lavit_deploy.export` is
the package that it comes from."""

__all__ = [  # noqa: PLE0604 - the keys are strings
    *_PLACES,
    "__version__",
]


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
