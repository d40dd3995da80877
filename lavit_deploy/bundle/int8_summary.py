"""Whether int8 is faster and accurate here, in words."""

from __future__ import annotations

from collections.abc import Sequence

from lavit_deploy.manifest import Artifact


def int8_verdict(artifacts: Sequence[Artifact]) -> str | None:
    """What the measurements of one bundle say of int8.

    Compared are the fastest int8 artifact that passed and the fastest float one, each at the batch
    size that suits it best.

    Args:
        artifacts: of the bundle, timed on this machine.

    Returns:
        One sentence; None where nothing is quantized.
    """
    quantized = [item for item in artifacts if item.quantization is not None]
    if not quantized:
        return None
    accurate = [item for item in quantized if item.passed]
    if not accurate:
        return (
            "int8 is not accurate here: every int8 artifact failed its comparison on held-out "
            "pictures. Float stays the choice."
        )
    floats = [item for item in artifacts if item.quantization is None and item.passed]
    best = max(accurate, key=lambda item: item.best_rate)
    rival = max(floats, key=lambda item: item.best_rate, default=None)
    if rival is None or not rival.best_rate or not best.best_rate:
        return f"int8 is accurate here ({best.name}: {_loss(best)}), and was not timed with float."
    ratio = best.best_rate / rival.best_rate
    times = f"{best.name} runs {ratio:.2f} times the pictures of {rival.name} per second"
    if ratio > 1.0:
        return f"int8 is accurate and faster here: {times}, {_loss(best)}."
    return f"int8 is accurate ({_loss(best)}) but not faster here: {times}. Float stays the choice."


def _loss(artifact: Artifact) -> str:
    """What it loses on held-out pictures, as a phrase."""
    about = artifact.quantization
    assert about is not None  # noqa: S101 # callers pass quantized artifacts alone
    kind = "agreement" if about.accuracy is None else "accuracy"
    return f"{about.drop:.2f} points of {kind} lost on {about.held_out}"
