"""What other installed packages add to this one, found by their entry points.

A package says in its `pyproject.toml`, for instance:

    [project.entry-points."lavit_deploy.runtimes"]
    myengine = "my_package.engine:SPEC"
"""

from __future__ import annotations

from importlib import metadata
from typing import TypeVar

from lavit_deploy.common.errors import UsageError

_Kind = TypeVar("_Kind")


def installed(group: str, kind: type[_Kind]) -> tuple[_Kind, ...]:
    """The objects that installed packages declare, in the order of their entry points' names.

    Args:
        group: of the entry points, such as "lavit_deploy.runtimes".
        kind: what each must be an instance of.

    Raises:
        UsageError: one cannot be imported, or is something else; names it.
    """
    return tuple(_load(point, kind) for point in sorted(metadata.entry_points(group=group)))


def _load(point: metadata.EntryPoint, kind: type[_Kind]) -> _Kind:
    try:
        found = point.load()
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"{point.value}, which an installed package adds to {point.group}, cannot be "
            f"imported: {error}"
        ) from None
    if not isinstance(found, kind):
        raise UsageError(
            f"{point.value}, which an installed package adds to {point.group}, is a "
            f"{type(found).__name__}, expected a {kind.__name__}"
        )
    return found
