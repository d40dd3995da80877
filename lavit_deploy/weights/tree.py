"""All tensors of a checkpoint as one tree: keys of dictionaries and parts of names alike.

`{"state_dict": {"model.norm.weight": w}}` has its tensor at state_dict, model, norm, weight, so a
key and a wrapper's prefix are looked for in one way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from torch import Tensor

from lavit_deploy.common.errors import CheckpointError
from lavit_deploy.weights.unpickling import StandIn

_DEEPEST = 12
"""Dictionaries in dictionaries that are looked into."""

_MOST_PARTS = 100_000
"""Tensors and dictionaries with something inside."""


@dataclass(eq=False)
class Node:
    """A place in the tree.

    Attributes:
        path: the parts of the names that lead here.
        container: whether a dictionary of the checkpoint, or a pickled module, begins here.
        tensor: the tensor of this name, if there is one.
        children: the next parts, in the checkpoint's order.
    """

    path: tuple[str, ...] = ()
    container: bool = False
    tensor: Tensor | None = None
    children: dict[str, Node] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The path as one name."""
        return ".".join(self.path)

    def child(self, name: str) -> Node:
        """The node behind one more part, made where there is none."""
        if name not in self.children:
            self.children[name] = Node((*self.path, name))
        return self.children[name]

    def at(self, name: str) -> Node | None:
        """The node of a dotted name below this one; None where there is none."""
        node: Node | None = self
        for part in name.split("."):
            node = node.children.get(part) if node is not None else None
        return node

    def walk(self) -> Iterator[Node]:
        """This node and all below it, parents first."""
        yield self
        for child in self.children.values():
            yield from child.walk()

    def leaves(self) -> Iterator[Node]:
        """The nodes with a tensor."""
        return (node for node in self.walk() if node.tensor is not None)


def tree_of(content: object, path: Path) -> Node:
    """The tensors of a checkpoint's content; everything else is passed over.

    Args:
        content: of dictionaries, lists, tensors and other values.
        path: where it is from, for errors.

    Raises:
        CheckpointError: it is larger than any checkpoint, as one that contains itself is.
    """
    builder = _Builder(path)
    root = Node()
    builder.add(root, content, _DEEPEST)
    return root


class _Builder:
    """Puts values into a tree, and stops where a checkpoint would."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._left = _MOST_PARTS

    def add(self, node: Node, value: object, depth: int, *, of_module: bool = False) -> None:
        """Put a value and all inside it at a node.

        Args:
            node: where.
            value: a tensor, or something with tensors inside.
            depth: how much deeper to look.
            of_module: the value belongs to a module, whose parts are one dictionary.
        """
        parts = _parts(value)
        if parts is None and not isinstance(value, Tensor):
            return
        self._left -= 1
        if self._left < 0:
            raise CheckpointError(
                f"{self._path} holds more than {_MOST_PARTS:,} tensors and dictionaries"
            )
        if isinstance(value, Tensor):
            node.tensor = value
        if parts is None or depth == 0:
            return
        node.container = not of_module
        for key, part in parts.items():
            place = node
            for name in str(key).split("."):
                place = place.child(name)
            self.add(place, part, depth - 1, of_module=isinstance(value, StandIn))


def _parts(value: object) -> Mapping[object, object] | None:
    """What is inside a value by its names; None where nothing is."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list | tuple):
        return dict(enumerate(value)) if any(isinstance(item, Tensor) for item in value) else None
    if isinstance(value, StandIn) and isinstance(value.state, dict):
        state = cast("dict[str, object]", value.state)
        if "_parameters" in state:
            return _module_parts(state)
    return None


def _module_parts(state: dict[str, object]) -> dict[object, object]:
    """Parameters, buffers and modules of a module that was pickled whole."""
    unsaved = state.get("_non_persistent_buffers_set")
    unsaved = unsaved if isinstance(unsaved, set) else set()
    parts: dict[object, object] = {}
    for kind in ("_parameters", "_buffers", "_modules"):
        held = state.get(kind)
        if isinstance(held, Mapping):
            parts.update({key: item for key, item in held.items() if key not in unsaved})
    return parts
