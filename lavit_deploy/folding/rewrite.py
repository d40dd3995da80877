"""What every rewrite promises, and the one place where the promises are checked.

A rewrite changes a `FoldedLaViT` in place. It says what it needs (`requires`) and what holds after
it (`ensures`), and the model computes the same function before and after, which `fold` checks on
a probe picture.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from lavit_deploy.common.errors import ExportError
from lavit_deploy.folding.modules.model import FoldedLaViT


class ContractError(Exception):
    """A rewrite's precondition or postcondition does not hold."""


@dataclass(frozen=True)
class RewriteResult:
    """What one rewrite did.

    Attributes:
        rewrite: its name.
        changed: number of places that it changed; 0 where the model has none.
    """

    rewrite: str
    changed: int


class Rewrite(ABC):
    """An algebraic identity that is applied to a model of float64 weights."""

    name: ClassVar[str]

    def requires(self, model: FoldedLaViT) -> None:
        """Check what the rewrite needs.

        Raises:
            ContractError: the model is not in a form that the rewrite understands.
        """
        del model

    @abstractmethod
    def apply(self, model: FoldedLaViT) -> int:
        """Rewrite `model` in place.

        Returns:
            The number of places changed.
        """

    def ensures(self, model: FoldedLaViT) -> None:
        """Check what must hold afterwards.

        Raises:
            ContractError: the rewrite left something undone.
        """
        del model


def run(rewrites: Sequence[Rewrite], model: FoldedLaViT) -> tuple[RewriteResult, ...]:
    """Apply rewrites in order, each under its contract.

    Args:
        rewrites: what to apply.
        model: changed in place.

    Raises:
        ExportError: a contract was broken; names the rewrite and those that ran before it.
    """
    results: list[RewriteResult] = []
    for rewrite in rewrites:
        try:
            results.append(_apply(rewrite, model))
        except ContractError as error:
            raise ExportError(f"{history(rewrite, results)}: {error}") from error
        except Exception as error:
            error.add_note(history(rewrite, results))
            raise
    return tuple(results)


def history(rewrite: Rewrite, before: Sequence[RewriteResult]) -> str:
    """Which rewrite failed, and what had been done to the model by then."""
    names = ", ".join(result.rewrite for result in before) or "none"
    return f"the rewrite {rewrite.name!r} failed (rewrites before it: {names})"


def _apply(rewrite: Rewrite, model: FoldedLaViT) -> RewriteResult:
    if any(value.dtype != torch.float64 for value in model.parameters()):
        raise ContractError("rewrites need float64 weights; cast after the last of them")
    rewrite.requires(model)
    changed = rewrite.apply(model)
    rewrite.ensures(model)
    return RewriteResult(rewrite.name, changed)
