"""Multiply-adds of every architecture in closed form, by stage and by part.

A closed form knows nothing of tracing: where it equals the traced count, no operator was missed and
none was counted twice. The convention is that of `lavit_deploy.model.counts`: one multiply and one
add are one operation, convolutions and matrix products count, nothing else does.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from lavit_deploy.model.config import STAGES, LaViTConfig
from lavit_deploy.model.counts import stage_multiply_adds

HEAD = "head"
"""Name of the stage, and of the part, that follows the last transformer layer."""

STAGE_NAMES = (*(f"stage {stage + 1}" for stage in range(STAGES)), HEAD)
"""What counts are split by first; a patch embedding or merging belongs to the stage it opens."""

StageCounts = Mapping[str, Counter[str]]
"""Multiply-adds of one image: stage name -> part of `lavit_deploy.model.counts.PARTS` -> count."""


@dataclass(frozen=True, kw_only=True)
class PvtV2Config:
    """PVT v2 (W. Wang et al., arXiv:2106.13797, Table 1). Tuples hold one entry per stage.

    Attributes:
        image_size: input height and width, pixels.
        depths: layers.
        dims: channels.
        heads: attention heads.
        mlp_ratios: hidden width of the convolutional MLP as a multiple of the channels.
        sr_ratios: spatial reduction of keys and values.
        kernels: kernel of each overlapping patch embedding, padded by half of it.
        strides: stride of each patch embedding.
        num_classes: outputs of the classifier.
    """

    image_size: tuple[int, int] = (224, 224)
    depths: tuple[int, ...]
    dims: tuple[int, ...] = (64, 128, 320, 512)
    heads: tuple[int, ...] = (1, 2, 5, 8)
    mlp_ratios: tuple[int, ...] = (8, 8, 4, 4)
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1)
    kernels: tuple[int, ...] = (7, 3, 3, 3)
    strides: tuple[int, ...] = (4, 2, 2, 2)
    num_classes: int = 1000


@dataclass(frozen=True, kw_only=True)
class SwinConfig:
    """Swin Transformer (Z. Liu et al., arXiv:2103.14030, section 3.3).

    Attributes:
        image_size: input height and width, pixels.
        depths: layers of each stage.
        dim: channels of the first stage; each later stage doubles them.
        heads: attention heads of each stage.
        window: side of an attention window, tokens.
        mlp_ratio: hidden width of the MLP as a multiple of the channels.
        patch: side of a patch, pixels.
        num_classes: outputs of the classifier.
    """

    image_size: tuple[int, int] = (224, 224)
    depths: tuple[int, ...]
    dim: int = 96
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    mlp_ratio: int = 4
    patch: int = 4
    num_classes: int = 1000


Reduction = Literal["none", "dynamicvit", "evit", "ppt"]
"""How a ViT gets rid of tokens."""


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """ViT and DeiT (arXiv:2010.11929, arXiv:2012.12877), and models that change few things in them.

    Attributes:
        image_size: input height and width, pixels.
        dim: channels.
        depth: layers.
        heads: attention heads.
        mlp_ratio: hidden width of the MLP as a multiple of the channels.
        patch: side of a patch, pixels.
        num_classes: outputs of the classifier.
        stem: channels of the two convolutions before the patches are taken, at half the
            resolution (DeepViT, arXiv:2103.11886); None without.
        mixed_heads: number of last layers whose attention maps are mixed across heads by a
            1 x 1 convolution (DeepViT's re-attention).
        reduction: how tokens are removed: "dynamicvit" (arXiv:2106.02034), "evit"
            (arXiv:2202.07800), "ppt" (arXiv:2310.01812).
        reduced_at: 0-based layers that remove tokens.
        keep: share of the tokens that "dynamicvit" and "evit" keep each time.
        removed: tokens that "ppt" removes each time.
    """

    image_size: tuple[int, int] = (224, 224)
    dim: int
    depth: int = 12
    heads: int
    mlp_ratio: int = 4
    patch: int = 16
    num_classes: int = 1000
    stem: int | None = None
    mixed_heads: int = 0
    reduction: Reduction = "none"
    reduced_at: tuple[int, ...] = ()
    keep: float = 1.0
    removed: int = 0

    @property
    def patches(self) -> int:
        """Tokens of a picture, without the class token."""
        return (self.image_size[0] // self.patch) * (self.image_size[1] // self.patch)


class LayerTokens(NamedTuple):
    """Tokens of one layer, the class token included.

    Attributes:
        attention: tokens that attend to each other.
        mlp: tokens that go through the MLP.
        candidates: tokens among which were chosen, 0 where nothing is removed.
    """

    attention: int
    mlp: int
    candidates: int


def layer_tokens(config: ViTConfig) -> Iterator[LayerTokens]:
    """Tokens of every layer, first to last."""
    tokens = config.patches + 1
    for layer in range(config.depth):
        removing = layer in config.reduced_at
        candidates = tokens - 1 if removing else 0
        if removing and config.reduction == "dynamicvit":  # before the layer
            times = config.reduced_at.index(layer) + 1
            tokens = int(config.patches * config.keep**times) + 1
        attention = tokens
        if removing and config.reduction == "evit":  # the others become one token
            kept = math.ceil(config.keep * (tokens - 1))
            tokens = kept + 2 if kept < tokens - 1 else tokens
        elif removing and config.reduction == "ppt":
            tokens -= min(config.removed, (tokens - 1) // 2)
        yield LayerTokens(attention, tokens, candidates)


def lavit_counts(config: LaViTConfig) -> StageCounts:
    """LaViT; also PVT v1, which is a LaViT without less-attention and attention residuals."""
    counts = {
        name: stage_multiply_adds(config, stage) for stage, name in enumerate(STAGE_NAMES[:STAGES])
    }
    return {**counts, HEAD: _classifier(config.dims[-1], config.num_classes)}


def pvt_v2_counts(config: PvtV2Config) -> StageCounts:
    """PVT v2: overlapping patch embeddings, and a depthwise convolution within every MLP."""
    counts = {}
    height, width = config.image_size
    channels = 3
    for stage, name in enumerate(STAGE_NAMES[:STAGES]):
        kernel, stride, dim = config.kernels[stage], config.strides[stage], config.dims[stage]
        height, width = (
            (side + 2 * (kernel // 2) - kernel) // stride + 1 for side in (height, width)
        )
        ratio, depth = config.sr_ratios[stage], config.depths[stage]
        tokens, keys = height * width, (height // ratio) * (width // ratio)
        hidden = dim * config.mlp_ratios[stage]
        reduction = keys * dim * dim * ratio**2 if ratio > 1 else 0
        counts[name] = Counter(
            patch_embed=tokens * channels * dim * kernel**2,
            attention_projections=depth * (2 * (tokens + keys) * dim * dim + reduction),
            attention_scores_values=depth * 2 * tokens * keys * dim,
            mlp=depth * (2 * tokens * dim * hidden + tokens * hidden * 3**2),
        )
        channels = dim
    return {**counts, HEAD: _classifier(channels, config.num_classes)}


def swin_counts(config: SwinConfig) -> StageCounts:
    """Swin: attention within windows; a grid that windows do not divide is padded, and counted so.

    Padding enters attention and its projections, not the MLP.
    """
    counts = {}
    height, width = (side // config.patch for side in config.image_size)
    dim = config.dim
    for stage, name in enumerate(STAGE_NAMES[:STAGES]):
        if stage == 0:
            entry = height * width * 3 * dim * config.patch**2
        else:  # patch merging: four neighbours of dim / 2 channels become one token of dim
            height, width = math.ceil(height / 2), math.ceil(width / 2)
            entry = height * width * (2 * dim) * dim
        window, depth = config.window, config.depths[stage]
        padded = math.ceil(height / window) * math.ceil(width / window) * window**2
        counts[name] = Counter(
            patch_embed=entry,
            attention_projections=depth * 4 * padded * dim * dim,
            attention_scores_values=depth * 2 * padded * window**2 * dim,
            mlp=depth * 2 * height * width * dim * dim * config.mlp_ratio,
        )
        dim *= 2
    return {**counts, HEAD: _classifier(dim // 2, config.num_classes)}


def vit_counts(config: ViTConfig) -> StageCounts:
    """ViT: one stage.

    For PPT without its choice of tokens: what that costs depends on the picture.
    """
    dim, count = config.dim, Counter[str]()
    count["patch_embed"] = config.patches * 3 * dim * config.patch**2
    if config.stem is not None:
        height, width = (math.ceil(side / 2) for side in config.image_size)
        pixels, stem = height * width, config.stem
        count["patch_embed"] = pixels * (3 * stem * 7**2 + stem * stem * 3**2)
        count["patch_embed"] += config.patches * stem * dim * (config.patch // 2) ** 2
    for layer, tokens in enumerate(layer_tokens(config)):
        scores = tokens.attention**2
        count["attention_projections"] += tokens.attention * 4 * dim * dim
        count["attention_scores_values"] += 2 * scores * dim
        if layer >= config.depth - config.mixed_heads:
            count["attention_scores_values"] += scores * config.heads**2
        count["mlp"] += tokens.mlp * 2 * dim * dim * config.mlp_ratio
        if tokens.candidates:
            count["token_selection"] += _selection(config, tokens)
    return {STAGE_NAMES[0]: count, HEAD: _classifier(dim, config.num_classes)}


def _selection(config: ViTConfig, tokens: LayerTokens) -> int:
    """Multiply-adds of choosing the tokens that one layer removes."""
    dim = config.dim
    if config.reduction == "dynamicvit":  # D -> D -> D/2 -> D/4 -> 2
        return tokens.candidates * (
            dim * dim + dim * (dim // 2) + (dim // 2) * (dim // 4) + (dim // 4) * 2
        )
    return 0


def _classifier(dim: int, num_classes: int) -> Counter[str]:
    return Counter({HEAD: dim * num_classes})


def by_part(counts: StageCounts) -> Counter[str]:
    """Sum over stages."""
    return sum(counts.values(), Counter[str]())


def total(counts: StageCounts) -> int:
    """Sum over stages and parts."""
    return sum(part.total() for part in counts.values())
