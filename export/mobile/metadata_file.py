"""What an app must know beside a file: labels, preprocessing, and what goes in and out."""

from __future__ import annotations

import json
from typing import Any

from lavit_deploy.checkpoint import Checkpoint
from lavit_deploy.export.mobile.formats.format import Format
from lavit_deploy.preprocess import CHANNELS


def sidecar(checkpoint: Checkpoint, form: Format, file: str) -> dict[str, Any]:
    """Everything that is needed to call a file, ready for JSON.

    Args:
        checkpoint: where names and preprocessing come from.
        form: the format.
        file: the file's name.
    """
    preprocess = checkpoint.preprocess
    height, width, channels = preprocess.shape
    return {
        "name": checkpoint.architecture,
        "file": file,
        "input": {
            "layout": form.layout.replace("C", str(channels)),
            "height": height,
            "width": width,
            "description": f"{width} x {height}, {CHANNELS[preprocess.mode]}, {form.colours}; "
            "mean and std are inside",
        },
        "preprocess": {
            "mode": preprocess.mode,
            "resize": preprocess.resize,
            "crop": list(preprocess.crop),
            "interpolation": preprocess.interpolation,
        },
        "output": "logits, one for each class",
        "classes": list(checkpoint.classes),
        "checkpoint_sha256": checkpoint.sha256,
    }


def as_json(about: dict[str, Any]) -> str:
    """The sidecar's text."""
    return json.dumps(about, ensure_ascii=False, indent=2) + "\n"
