"""Which of a checkpoint's sets of weights to take."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lavit_deploy.common.errors import CheckpointError
from lavit_deploy.weights.fitting import Fit, NameFitter, Shapes
from lavit_deploy.weights.tree import Node

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_AVERAGES = frozenset({"ema", "swa", "avg", "average", "averaged", "shadow"})
"""Words in the keys of averaged weights: of exponential moving, stochastic and other averages."""

_LISTED = 20


@dataclass(frozen=True)
class WeightsOption:
    """What the user says of the weights to take.

    Attributes:
        key: dotted key that they are under; None: found by what fits.
        averaged: take averaged ones.
    """

    key: str | None = None
    averaged: bool = False


def find_weights(tree: Node, shapes: Shapes, option: WeightsOption, path: Path) -> list[Fit]:
    """The sets of weights that fit a model as well as any; none where nothing of it is found.

    Args:
        tree: the checkpoint's tensors.
        shapes: of the model's tensors.
        option: which ones count.
        path: of the checkpoint, for errors.

    Raises:
        CheckpointError: there is nothing under the key, or nothing averaged.
    """
    fitter = NameFitter(shapes)
    if option.key is not None:
        place = tree.at(option.key)
        if place is None:
            raise CheckpointError(f"{path} has nothing under {option.key}; it has {_keys(tree)}")
        return fitter.fits(place)
    if option.averaged:
        if not any(is_averaged(node) for node in tree.walk()):
            raise CheckpointError(f"{path} has no averaged weights; it has {_keys(tree)}")
        return fitter.fits(tree, is_averaged)
    every = fitter.fits(tree)
    plain = [fit for fit in every if not is_averaged(fit.node)]
    # Averaged weights are taken unasked where they are the only ones that fit.
    return plain or every


def is_averaged(node: Node) -> bool:
    """Whether the keys to a place say that its weights are averages."""
    words = {word.lower() for part in node.path for word in _WORDS.findall(part)}
    return not words.isdisjoint(_AVERAGES)


def the_one(fits: Sequence[Fit], path: Path) -> Fit:
    """The fit to take of several, which must be the same weights.

    Raises:
        CheckpointError: they differ; names the keys to choose from.
    """
    first, *others = fits
    differ = [fit for fit in others if not _same(first, fit)]
    if differ:
        keys = ", ".join(fit.node.name or "the file itself" for fit in (first, *differ))
        raise CheckpointError(
            f"{path} holds several sets of weights that fit: {keys}; --weights KEY takes one"
        )
    return first


def key_of(tree: Node, fit: Fit, option: WeightsOption) -> str:
    """What the weights are called: the key of their dictionary, or more where that says more."""
    if option.key is not None:
        return option.key
    container = container_of(tree, fit.node)
    said_by_prefix = is_averaged(fit.node) and not is_averaged(container)
    return fit.node.name if said_by_prefix else container.name


def container_of(tree: Node, node: Node) -> Node:
    """The dictionary that the tensors of a node are in."""
    container, place = tree, tree
    for step in node.path:
        place = place.children[step]
        container = place if place.container else container
    return container


def _same(first: Fit, second: Fit) -> bool:
    return first.tensors.keys() == second.tensors.keys() and all(
        torch.equal(mine, theirs)
        for name, node in first.tensors.items()
        if (mine := node.tensor) is not None and (theirs := second.tensors[name].tensor) is not None
    )


def _keys(tree: Node) -> str:
    """Where dictionaries with tensors are, and the first names where there are none."""
    keys = [
        node.name
        for node in tree.walk()
        if node.container and node.path and next(node.leaves(), None) is not None
    ]
    return ", ".join((keys or list(tree.children))[:_LISTED]) or "no tensors"
