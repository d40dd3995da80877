"""What a format says of itself; read by other interpreters too, so the standard library alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lavit_deploy.manifest import Precision

Source = Literal["onnx", "uint8", "planar"]
"""What a format is converted from: the bundle's ONNX graph, or a program that takes uint8
[1, H, W, C] or float32 [1, C, H, W]."""


@dataclass(frozen=True)
class MobileVariant:
    """One file of a format.

    Attributes:
        name: of the artifact, such as "litert-fp16".
        suffix: what follows "model." in the file's name.
        precision: what it holds.
        why: a phrase for the plan.
    """

    name: str
    suffix: str
    precision: Precision
    why: str


@dataclass(frozen=True)
class Format:
    """A mobile format.

    Attributes:
        name: as in the manifest, `--target` and this package.
        source: what it is converted from.
        variants: what can be built.
        modules: the modules that its conversion and its runtime need.
        requirement: what `pip install` brings them.
        method: how parity is found, for the manifest.
        layout: what an app hands to it; C stands for the number of channels.
        colours: what the numbers of that are, after the name of the channels.
    """

    name: str
    source: Source
    variants: tuple[MobileVariant, ...]
    modules: tuple[str, ...]
    requirement: str
    method: str = "run"
    layout: str = "uint8 [1, H, W, C]"
    colours: str = "0..255"
