"""Measures of a model's attention maps over many pictures.

Letters: P pictures, H heads, N queries, M keys. Everything is computed in float64 of scores that
the model gave, picture by picture, so that the spread over pictures is known.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from lavit_deploy.profiles.similarity.report import LayerSimilarity, Statistic

if TYPE_CHECKING:
    from lavit_deploy.model.lavit import LayerScores


class _Output(Protocol):
    """What a model's `forward_with_scores` gives."""

    @property
    def scores(self) -> Sequence[LayerScores]: ...


class Scored(Protocol):
    """A model that gives the scores of its layers."""

    def forward_with_scores(self, images: Tensor) -> _Output:
        """Pre-softmax scores [B, H, N, M] of every layer, for normalised images [B, C, H, W]."""


class _Layer(NamedTuple):
    """One layer, measured on some pictures.

    Attributes:
        place: 0-based stage and layer, and whether it is less-attention.
        plain: cosines of this layer's heads with those of the layer before, [P, H]; None for the
            first of a stage, as are the next two.
        scores: the same of scores.
        centred: cosines of every head before with every head here, [P, H, H].
        entropy: over log M, [P].
        largest: [P].
        pictures: cosine with the next picture's map, [P or P - 1]; empty for one picture.
    """

    place: tuple[int, int, bool]
    plain: Tensor | None
    scores: Tensor | None
    centred: Tensor | None
    entropy: Tensor
    largest: Tensor
    pictures: Tensor


@torch.inference_mode()
def similarity(model: Scored, batches: Iterable[Tensor]) -> tuple[LayerSimilarity, ...]:
    """Measure every layer of a model.

    Args:
        model: in evaluation mode.
        batches: normalised images [B, C, H, W], at least one picture in all.
    """
    found = [_measured(model.forward_with_scores(images).scores) for images in batches]
    return tuple(_summary(parts) for parts in zip(*found, strict=True))


def _measured(layers: Sequence[LayerScores]) -> list[_Layer]:
    """Every layer on one batch."""
    found: list[_Layer] = []
    before: tuple[int, Tensor, Tensor] | None = None
    for one in layers:
        scores = one.scores.double()  # [B, H, N, M]
        maps = scores.softmax(dim=-1)
        scores = scores - scores.mean(dim=-1, keepdim=True)
        plain, alike, centred = None, None, None
        if before is not None and before[0] == one.stage:
            plain = cosine(before[1], maps)
            alike = cosine(before[2], scores)
            centred = _every_pair(before[1] - 1 / maps.shape[-1], maps - 1 / maps.shape[-1])
        found.append(
            _Layer(
                (one.stage, one.layer, one.less_attention),
                plain,
                alike,
                centred,
                _entropy(maps),
                maps.amax(dim=-1).mean(dim=(1, 2)),
                cosine(maps[1:], maps[:-1]).mean(dim=1),
            )
        )
        before = (one.stage, maps, scores)
    return found


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of whole maps: [B, H, N, M] and the same -> [B, H]; 0 where one is zero."""
    return torch.nn.functional.cosine_similarity(first.flatten(2), second.flatten(2), dim=-1)


def _every_pair(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of every head of one with every head of the other, [B, H, H]."""
    normed = [torch.nn.functional.normalize(maps.flatten(2), dim=-1) for maps in (first, second)]
    return normed[0] @ normed[1].transpose(1, 2)  # [B, H, NM] @ [B, NM, H]


def _entropy(maps: Tensor) -> Tensor:
    """Mean entropy of the rows over log M: [B, H, N, M] -> [B]; 1 where there is one key."""
    keys = maps.shape[-1]
    if keys == 1:
        return maps.new_ones(len(maps))
    entropies = -torch.special.xlogy(maps, maps).sum(dim=-1)  # [B, H, N]
    return entropies.mean(dim=(1, 2)) / math.log(keys)


def _summary(parts: Sequence[_Layer]) -> LayerSimilarity:
    """One layer over all batches."""
    stage, layer, less_attention = parts[0].place
    plain = _joined([part.plain for part in parts])
    scores = _joined([part.scores for part in parts])
    pairs = _joined([part.centred for part in parts])  # [P, H, H]
    centred, matched = None, None
    if pairs is not None:
        centred = pairs.diagonal(dim1=1, dim2=2)  # [P, H]
        rows, columns = linear_sum_assignment(pairs.mean(dim=0).numpy(), maximize=True)
        matched = pairs[:, torch.as_tensor(rows), torch.as_tensor(columns)]
    pictures = torch.cat([part.pictures for part in parts])
    return LayerSimilarity(
        stage=stage + 1,
        layer=layer + 1,
        less_attention=less_attention,
        plain=_of_heads(plain),
        centred=_of_heads(centred),
        scores=_of_heads(scores),
        matched=_of_heads(matched),
        entropy=_statistic(torch.cat([part.entropy for part in parts])),
        largest=_statistic(torch.cat([part.largest for part in parts])),
        pictures=_statistic(pictures) if len(pictures) else None,
    )


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None


def _of_heads(values: Tensor | None) -> Statistic | None:
    """Of [P, H], the mean over heads."""
    return None if values is None else _statistic(values.mean(dim=1))


def _statistic(values: Tensor) -> Statistic:
    deviation = values.std().item() if len(values) > 1 else 0.0
    return Statistic(mean=values.mean().item(), deviation=deviation)
