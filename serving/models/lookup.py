"""Models by name and version, as the routes ask for them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from lavit_deploy.serving.models.classifier import Classifier
from lavit_deploy.serving.models.status import ModelStatus


class ModelLookup(Protocol):
    """Where routes find models."""

    @property
    def unready_reason(self) -> str | None:
        """Why no traffic should be sent here; None while every model is ready."""

    def use(
        self, name: str | None = None, version: str | None = None
    ) -> AbstractContextManager[Classifier]:
        """Hold a model for the time of a request, even if it is exchanged meanwhile.

        Args:
            name: which; None: the default one.
            version: which of that name; None: the first one in the listing.

        Raises:
            UnknownModelError: there is none of that name and version.
        """

    def listing(self) -> tuple[ModelStatus, ...]:
        """What there is, the default first."""
