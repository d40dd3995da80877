"""Names of a checkpoint fitted to a model's own, whatever wrappers put around and between them.

`module.`, `net._orig_mod.`, `blocks.0._checkpoint_wrapped_module.`: a wrapper puts one more part
into the names of what it wraps. No list of them is kept. Both sides are trees of parts of names; a
child that the model has is looked for where it should be, and behind parts that the model does not
have at that place. What a wrapper added is thereby the same for all that it wraps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from lavit_deploy.weights.tree import Node

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape | None]
"""Shape of each tensor by its name; None for one that may have any."""

_ANY: Shape = (-1,)


class Score(NamedTuple):
    """How well a part of the model is found; more is better, the first number first."""

    shapes: int = 0
    """Tensors of the right name and shape."""
    names: int = 0
    """Tensors of the right name."""

    def plus(self, other: Score) -> Score:
        """The score of two parts together."""
        return Score(self.shapes + other.shapes, self.names + other.names)


@dataclass(eq=False)
class _Wanted:
    """A part of the model's names.

    Attributes:
        path: the names' parts that lead here.
        shape: of the tensor of this name, if there is one.
        children: the next parts.
    """

    path: tuple[str, ...] = ()
    shape: Shape | None = None
    children: dict[str, _Wanted] = field(default_factory=dict)


@dataclass(frozen=True)
class _Match:
    """A part of the model, and where it was found.

    Attributes:
        score: how well it was found.
        places: the part and those in it, with the nodes that stand for them.
        certain: no two places are equally good.
    """

    score: Score = Score(0, 0)  # noqa: RUF009 - a tuple
    places: tuple[tuple[_Wanted, Node], ...] = ()
    certain: bool = True


@dataclass(frozen=True)
class Fit:
    """A model found at one place of a checkpoint.

    Attributes:
        node: the deepest node that has all of it.
        score: how well it was found.
        tensors: the nodes of tensors, by the model's names; of those that the model does not have,
            the name is that of the module that they are in and what follows.
        removed: what wrappers put into the names: parts, and into how many names.
    """

    node: Node
    score: Score
    tensors: Mapping[str, Node]
    removed: Mapping[str, int]


class NameFitter:
    """Finds a model's tensors in a checkpoint.

    Args:
        shapes: shape of each of the model's tensors by its name.
    """

    def __init__(self, shapes: Shapes) -> None:
        self._root = _Wanted()
        for name, shape in shapes.items():
            part = self._root
            for step in name.split("."):
                part = part.children.setdefault(step, _Wanted((*part.path, step)))
            part.shape = _ANY if shape is None else shape
        self._matches: dict[tuple[int, int], _Match] = {}

    def fits(self, tree: Node, where: Callable[[Node], bool] = lambda _: True) -> list[Fit]:
        """Every place where as much of the model is found as anywhere; none where nothing is.

        Args:
            tree: of a checkpoint, or a part of it.
            where: which places count, by the deepest node that has all.
        """
        self._matches.clear()  # nodes are known by their identity, which a later tree may reuse
        found: dict[frozenset[int], tuple[Node, _Match]] = {}
        for node in tree.walk():
            match = self._fit(node, self._root)
            if match.score.names and match.certain:
                # Parents come first, so that of those with the same tensors the deepest stays.
                used = frozenset(
                    id(place) for part, place in match.places if part.shape is not None
                )
                found[used] = (node, match)
        taken = [(node, match) for node, match in found.values() if where(node)]
        best = max((match.score for _, match in taken), default=Score())
        return [_made(node, match) for node, match in taken if match.score == best]

    def _fit(self, node: Node, part: _Wanted) -> _Match:
        """A part of the model at a node, its children there or behind parts of wrappers."""
        key = (id(node), id(part))
        if key not in self._matches:
            self._matches[key] = self._fitted(node, part)
        return self._matches[key]

    def _fitted(self, node: Node, part: _Wanted) -> _Match:
        score, certain = Score(), True
        places = [(part, node)]
        if part.shape is not None and node.tensor is not None:
            score = Score(int(part.shape in {_ANY, tuple(node.tensor.shape)}), 1)
        elif part.shape is not None:
            places = []
        for name, child in part.children.items():
            match = self._behind(node, name, child, part)
            score = score.plus(match.score)
            certain = certain and match.certain
            places += match.places
        return _Match(score, tuple(places) if score.names else (), certain)

    def _behind(self, node: Node, name: str, child: _Wanted, part: _Wanted) -> _Match:
        """A child of a part, at a node or behind parts that the model does not have there."""
        best = _Match()
        if name in node.children:
            best = self._fit(node.children[name], child)
        for step, other in node.children.items():
            if step in part.children or other.container:
                continue  # the model's own, or another set of tensors
            match = self._behind(other, name, child, part)
            if match.score > best.score:
                # What else is behind `other` belongs to the part as well.
                best = _Match(match.score, ((part, other), *match.places), match.certain)
            elif match.score.names and match.score == best.score and name not in node.children:
                best = _Match(best.score, best.places, certain=False)
        return best


def _made(node: Node, match: _Match) -> Fit:
    own = {id(place): part.path for part, place in match.places if part.shape is not None}
    stands_for = {id(place): part.path for part, place in match.places}
    tensors = {".".join(own[id(leaf)]): leaf for leaf in node.leaves() if id(leaf) in own}
    for leaf, name in _named(node, (), (), stands_for):
        if id(leaf) not in own:
            # Beside a tensor of that name it keeps its own.
            tensors[leaf.name if name in tensors else name] = leaf
    removed: Counter[str] = Counter()
    for leaf in node.leaves():
        if id(leaf) in own:
            removed.update(_removed(leaf.path[len(node.path) :], own[id(leaf)]))
    return Fit(node, match.score, tensors, removed)


def _named(
    node: Node,
    base: tuple[str, ...],
    rest: tuple[str, ...],
    stands_for: Mapping[int, tuple[str, ...]],
) -> Iterator[tuple[Node, str]]:
    """Every tensor at and below a node, named by the model's names as far as they go."""
    if id(node) in stands_for:
        base, rest = stands_for[id(node)], ()
    if node.tensor is not None:
        yield node, ".".join((*base, *rest))
    for step, child in node.children.items():
        yield from _named(child, base, (*rest, step), stands_for)


def _removed(found: tuple[str, ...], wanted: tuple[str, ...]) -> list[str]:
    """Runs of parts in a name that the model's own name does not have."""
    runs: list[str] = []
    run: list[str] = []
    left = list(wanted)
    for step in found:
        if left and step == left[0]:
            left.pop(0)
            if run:
                runs.append(".".join(run))
            run = []
        else:
            run.append(step)
    return runs
