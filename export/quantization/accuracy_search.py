"""Write an int8 artifact with as many blocks in int8 as the allowed loss permits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lavit_deploy.export.quantization.accuracy_loss import Loss
from lavit_deploy.export.quantization.int8_judge import Judge
from lavit_deploy.runtimes.base import Logits


@dataclass(frozen=True)
class SearchOutcome:
    """What a search left on disk.

    Attributes:
        float_blocks: blocks that stay float in the file; none where the search failed.
        within: the loss is no more than allowed.
        logits: the file's logits of the held-out pictures [N, K].
    """

    float_blocks: tuple[str, ...]
    within: bool
    logits: Logits


def search_within_loss(
    judge: Judge,
    sensitivity: Callable[[], dict[str, float]],
    write: Callable[[tuple[str, ...]], None],
    run: Callable[[], Logits],
) -> SearchOutcome:
    """Return blocks to float until the loss on held-out pictures is small enough.

    Args:
        judge: knows the held-out pictures and the allowed loss.
        sensitivity: error of each block; asked for only if anything must return.
        write: writes the artifact's file with these blocks in float.
        run: logits of the held-out pictures by the file as it was last written.

    Returns:
        What the file now holds. Where no choice of blocks is enough, all of it is int8.
    """
    tried: dict[tuple[str, ...], Logits] = {}

    def logits_with(blocks: tuple[str, ...]) -> Logits:
        write(blocks)
        tried[blocks] = run()
        return tried[blocks]

    found = find_float_blocks(
        sensitivity, lambda blocks: judge.loss(logits_with(blocks)), judge.max_drop
    )
    blocks = found or ()
    if [*tried][-1] != blocks:
        write(blocks)
    return SearchOutcome(blocks, found is not None, tried[blocks])


def find_float_blocks(
    sensitivity: Callable[[], dict[str, float]],
    measure: Callable[[tuple[str, ...]], Loss],
    max_drop: float,
) -> tuple[str, ...] | None:
    """Return the most sensitive blocks to float, one by one, until the loss is small enough.

    Args:
        sensitivity: error of each block; asked for only if anything must return.
        measure: builds with these blocks in float, and measures the loss on held-out pictures.
        max_drop: allowed loss, points.

    Returns:
        The blocks that stay float, all but one at most. None where that does not hold either:
        int8 as a whole cannot, and nothing is gained by giving it up piece by piece.
    """
    if measure(()).points <= max_drop:
        return ()
    errors = sensitivity()
    order = sorted(errors, key=lambda block: errors[block], reverse=True)
    for count in range(1, len(order)):
        chosen = tuple(order[:count])
        if measure(chosen).points <= max_drop:
            return chosen
    return None
