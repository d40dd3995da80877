"""Models by name and version, as the routes ask for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from serving.answers import ModelEntry
from serving.classifier import Classifier
from serving.errors import UnknownModelError


class Models(Protocol):
    """Where routes find models."""

    def use(
        self, name: str | None = None, version: str | None = None
    ) -> AbstractContextManager[Classifier]:
        """Hold a model for the time of a request; None is the default one.

        Raises:
            UnknownModelError: there is none of that name and version.
        """

    def listing(self) -> tuple[ModelEntry, ...]:
        """What there is, the default first."""


class OneModel:
    """A service of a single model.

    Args:
        classifier: the model.
    """

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier

    @contextmanager
    def use(self, name: str | None = None, version: str | None = None) -> Iterator[Classifier]:
        """As of `Models`."""
        (only,) = self.listing()
        if name not in {None, only.name} or version not in {None, only.version}:
            asked = " ".join(str(part)[:100] for part in (name, version) if part is not None)
            raise UnknownModelError(
                f"there is no model {asked!r}; there is {only.name} version {only.version}"
            )
        yield self._classifier

    def listing(self) -> tuple[ModelEntry, ...]:
        """As of `Models`."""
        model = self._classifier.model
        return (
            ModelEntry(
                **model.id.model_dump(),
                version="1",
                default=True,
                ready=self._classifier.unready_reason is None,
                classes=len(self._classifier.classes),
            ),
        )
