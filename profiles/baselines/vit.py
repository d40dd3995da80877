"""ViT and DeiT (arXiv:2010.11929, arXiv:2012.12877), as `transformers` builds them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from lavit_deploy.profiles.baselines.family import BaselineFamily, Published, Variant
from lavit_deploy.profiles.counting.architecture import Attention
from lavit_deploy.profiles.counting.module_rules import module_rules
from lavit_deploy.profiles.counting.stage_counts import HEAD, STAGE_NAMES, StageCounts, classifier

if TYPE_CHECKING:
    from torch import nn


_TORCHVISION = "torchvision, documentation of the weights (their counts, the same architecture)"
_DEIT = (
    "Touvron et al., DeiT, arXiv:2012.12877, with the digits that PVT's authors print in their "
    "comparison, arXiv:2102.12122"
)
_LAYER = r"vit\.layers\.\d+\."

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
    return {STAGE_NAMES[0]: count, HEAD: classifier(dim, config.num_classes)}


def _selection(config: ViTConfig, tokens: LayerTokens) -> int:
    """Multiply-adds of choosing the tokens that one layer removes."""
    dim = config.dim
    if config.reduction == "dynamicvit":  # D -> D -> D/2 -> D/4 -> 2
        return tokens.candidates * (
            dim * dim + dim * (dim // 2) + (dim // 2) * (dim // 4) + (dim // 4) * 2
        )
    return 0


def _build(config: ViTConfig, attention: Attention) -> nn.Module:
    from transformers import ViTConfig as Config
    from transformers import ViTForImageClassification

    return ViTForImageClassification(
        Config(  # type: ignore[call-arg] # num_labels, attn_implementation: of every one, not listed
            image_size=config.image_size[0],
            hidden_size=config.dim,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            intermediate_size=config.dim * config.mlp_ratio,
            patch_size=config.patch,
            num_labels=config.num_classes,
            attn_implementation=attention,
        )
    )


VIT = BaselineFamily(
    name="ViT",
    implementation="transformers",
    build=_build,
    module_rules=module_rules(
        (r"vit\.embeddings", "patch_embed"),
        (_LAYER + r"(layernorm_before|attention\.[qkvo]_proj)", "attention_projections"),
        (_LAYER + r"attention", "attention_scores_values"),
        (_LAYER + r"(layernorm_after|mlp)", "mlp"),
        (r"vit\.layernorm|classifier", HEAD),
    ),
    variants=(
        Variant("deit_tiny", ViTConfig(dim=192, heads=3), Published(5.7, 1.3, _DEIT)),
        Variant("deit_small", ViTConfig(dim=384, heads=6), Published(22.1, 4.6, _DEIT)),
        Variant("deit_base", ViTConfig(dim=768, heads=12), Published(86.6, 17.6, _DEIT)),
        Variant("vit_b", ViTConfig(dim=768, heads=12), Published(86.6, 17.56, _TORCHVISION)),
    ),
    counts=vit_counts,
    size_step=16,
)
