"""What is made of LaViT's own parts asks here for a LaViT."""

from __future__ import annotations

from torch import nn

from lavit_deploy.common.errors import ExportError
from lavit_deploy.model.lavit import LaViT


def need_lavit(model: nn.Module, purpose: str) -> LaViT:
    """The model, which must be a LaViT.

    Args:
        model: of any family.
        purpose: what it is needed for, as the beginning of a sentence.

    Raises:
        ExportError: it is of another family.
    """
    if not isinstance(model, LaViT):
        raise ExportError(
            f"{purpose} is made for LaViT alone so far, not for a {type(model).__name__}"
        )
    return model
