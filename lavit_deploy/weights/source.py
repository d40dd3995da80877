"""Which model a checkpoint is of: what it says, or what its tensors' shapes show."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lavit_deploy.common.errors import CheckpointError, ConfigError
from lavit_deploy.families.catalogue import (
    DEFAULT,
    Family,
    all_families,
    family_of_preset,
    find_family,
)
from lavit_deploy.families.family import Configuration
from lavit_deploy.weights.candidates import WeightsOption, container_of, find_weights, the_one
from lavit_deploy.weights.files import Content
from lavit_deploy.weights.fitting import Fit, Score
from lavit_deploy.weights.model_tensors import ModelTensors, found_shapes, found_tensors
from lavit_deploy.weights.tree import Node, tree_of
from lavit_deploy.weights.unpickling import wants_to_create
from lavit_deploy.weights.usable import unusable, without_counters

_LISTED = 20
_MOST_SETS = 8
"""Sets of weights that a preset is tried on."""


@dataclass(frozen=True)
class _Trial:
    """A preset, changed as the tensors show, and the tensors that it was tried on."""

    preset: str
    family: Family
    config: Configuration
    fit: Fit

    @cached_property
    def differ(self) -> list[str]:
        """What does not fit, in words."""
        tensors = ModelTensors(self.config)
        return tensors.misfits(tensors.completed(self.fit))


@dataclass
class Source:
    """A checkpoint's content, and what is found out about it.

    Attributes:
        path: the file or folder.
        content: what it holds.
        option: which weights to take.
        image_size: of the model's input, if the user says.
        tree: its tensors.
        assumed: what it did not say and was concluded, as sentences.
        notes: what of it was passed over, as sentences.
    """

    path: Path
    content: Content
    option: WeightsOption
    image_size: tuple[int, int] | None
    tree: Node = field(init=False)
    assumed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tree = tree_of(self.content.values, self.path)
        if next(self.tree.leaves(), None) is None:
            if self.content.dropped:
                raise wants_to_create(self.path, ", ".join(self.content.dropped))
            raise CheckpointError(
                f"{self.path} holds no state_dict: expected tensors by name, found other things "
                f"under {sorted(map(str, self.content.values))[:_LISTED]}"
            )

    def largest(self) -> Node:
        """The dictionary with the most tensors directly in it."""
        return max(
            (node for node in self.tree.walk() if node.container),
            key=lambda node: sum(
                child.tensor is not None or not child.container for child in node.children.values()
            ),
        )

    def configured(self, arch: str | None) -> tuple[Configuration, Fit] | None:
        """The model that the checkpoint describes, and its tensors; None if it describes none.

        Raises:
            CheckpointError: the description is invalid, or contradicts `arch` or the image size.
        """
        values = self.content.values
        stored = values.get("config")
        stored = vars(stored) if isinstance(stored, Namespace) else stored
        if not isinstance(stored, dict) or not stored:
            return None
        try:
            family = find_family(str(values.get("family", DEFAULT)))
            if not family.describes(stored):
                keys = ", ".join(sorted(map(str, stored))[:_LISTED])
                self.notes.append(f"its config entry describes no model, and was not used: {keys}")
                return None
            config = family.read_config(self._own(stored, family))
        except ConfigError as error:
            raise CheckpointError(f"{self.path}: its config is invalid: {error}") from None
        found = family.preset_name(config)
        if arch is not None and found != arch:
            family_of_preset(arch)  # a misspelt name is its own error
            raise CheckpointError(f"{self.path} says it is {found}, --arch says {arch}")
        if self.image_size not in {None, config.image_size}:
            raise CheckpointError(
                f"{self.path} takes {_size(config.image_size)} pixels, --image-size says "
                f"{_size(self.image_size or ())}"
            )
        fits = find_weights(self.tree, ModelTensors(config).shapes, self.option, self.path)
        return config, the_one(fits, self.path) if fits else self._whole()

    def _own(self, stored: dict[str, Any], family: Family) -> dict[str, Any]:
        """What of a configuration is the model's."""
        if not self.content.mixed_config:
            return stored
        others = sorted(set(stored) - family.config_keys())
        if others:
            self.notes.append(f"not used of config.json: {', '.join(others)}")
        return {key: value for key, value in stored.items() if key in family.config_keys()}

    def _whole(self) -> Fit:
        """The largest dictionary as it is, to say what does not fit in it."""
        node = self.largest()
        names = {".".join(leaf.path[len(node.path) :]): leaf for leaf in node.leaves()}
        return Fit(node, Score(), names, {})

    def inferred(self, arch: str | None) -> tuple[Configuration, Fit]:
        """The preset that the tensors' shapes fit, and the tensors.

        Raises:
            CheckpointError: they fit none, or several pictures' sizes.
        """
        if arch is not None:
            presets = {arch: family_of_preset(arch)}
        else:
            presets = {name: family for family in all_families() for name in family.presets}
        tried = [trial for name, family in presets.items() for trial in self._tried(name, family)]
        matches = [trial for trial in tried if not trial.differ]
        if not matches:
            raise self._no_preset(tried)
        chosen = the_one([trial.fit for trial in matches], self.path)
        match = next(trial for trial in matches if trial.fit is chosen)
        config = self._sized(match)
        if arch is None:
            size = list(config.image_size)
            self.assumed.insert(0, f"architecture {match.preset} {size}, from the tensor shapes")
        return config, chosen

    def _tried(self, name: str, family: Family) -> Iterator[_Trial]:
        """A preset, changed as the tensors show, for each set of weights that has its names."""
        names = dict.fromkeys(ModelTensors(family.preset(name)).expected)
        fits = find_weights(self.tree, names, self.option, self.path) or [self._whole()]
        for fit in fits[:_MOST_SETS]:
            config = family.fitted_preset(name, found_shapes(fit))
            yield _Trial(name, family, config, fit)

    def _sized(self, match: _Trial) -> Configuration:
        """The configuration at the size that is given, or that there is no doubt about."""
        sizes = match.family.equal_sizes(match.config, found_shapes(match.fit))
        usual = match.family.preset(match.preset).image_size
        if self.image_size is not None:
            return self._resized(match, self.image_size, sizes)
        others = " or ".join(_size(size) for size in sizes if size != usual)
        if usual not in sizes and len(sizes) > 1:
            raise CheckpointError(
                f"{self.path} does not say the size of its pictures, and its tensors have the "
                f"shapes of {others} pixels: say which by --image-size HEIGHT WIDTH"
            )
        if len(sizes) > 1:
            self.assumed.append(
                f"pictures of {_size(usual)} pixels, as is usual for {match.preset}; the shapes "
                f"would be the same for {others} (--image-size)"
            )
        return match.config

    def _resized(
        self, match: _Trial, size: tuple[int, int], sizes: Sequence[tuple[int, int]]
    ) -> Configuration:
        """The configuration at a size that the user gives.

        Raises:
            CheckpointError: the model does not exist at that size, or has other tensors there.
        """
        try:
            config = match.family.resized(match.config, size)
        except ConfigError as error:
            raise CheckpointError(f"--image-size {_size(size)}: {error}") from None
        if _Trial(match.preset, match.family, config, match.fit).differ:
            raise CheckpointError(
                f"--image-size {_size(size)}: the tensors of {self.path} are those of "
                f"{' or '.join(map(_size, sizes))} pixels"
            )
        return config

    def _no_preset(self, tried: Sequence[_Trial]) -> CheckpointError:
        nearest = min(tried, key=lambda trial: len(trial.differ))
        if wrong := unusable(without_counters(found_tensors(nearest.fit))):
            return CheckpointError(f"{self.path}: {wrong}")
        names = ", ".join(dict.fromkeys(trial.preset for trial in tried))
        return CheckpointError(
            f"{self.path} says no configuration, and its tensors fit none of {names}. "
            f"Nearest is {nearest.preset}, with {len(nearest.differ)} tensors that differ:\n  "
            + "\n  ".join(nearest.differ)
        )

    def account(self, fit: Fit) -> list[str]:
        """How the tensors of a fit were found, and what was left out, as sentences."""
        said: list[str] = []
        container = container_of(self.tree, fit.node)
        prefix = ".".join(fit.node.path[len(container.path) :])
        if prefix:
            said.append(f"all names begin with {prefix}., which was removed")
        said += [f"{run}. was removed from {count} names" for run, count in fit.removed.items()]
        inside = {id(leaf) for leaf in fit.node.leaves()}
        beside = [leaf.name for leaf in _flat_leaves(container) if id(leaf) not in inside]
        if beside:
            said.append(f"left out beside the model: {len(beside)} tensors, such as {beside[0]}")
        if self.content.dropped:
            said.append(
                "passed over, and their code not run: objects of "
                + ", ".join(self.content.dropped[:_LISTED])
            )
        return said


def _flat_leaves(node: Node) -> Iterator[Node]:
    """The tensors of a dictionary, without those of dictionaries in it."""
    if node.tensor is not None:
        yield node
    for child in node.children.values():
        if not child.container:
            yield from _flat_leaves(child)


def _size(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
