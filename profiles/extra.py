"""What is said where a package of the `profile` extra is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lavit_deploy.common.errors import MissingDependencyError

_PACKAGES = frozenset({"torch", "transformers", "fvcore", "safetensors", "rich", "jinja2", "scipy"})


@contextmanager
def profile_extra(purpose: str) -> Iterator[None]:
    """Turn a missing package of the `profile` extra into a message.

    Raises:
        MissingDependencyError: a package that the block imports is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _PACKAGES:
            raise
        raise MissingDependencyError(package, extra="profile", purpose=purpose) from None
