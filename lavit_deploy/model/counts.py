"""Parameters and multiply-adds of a LaViT in closed form, by part.

One multiply and one add count as one operation ("FLOPs" as the vision literature uses the word,
the paper's Table 2 included). Counted: convolutions and matrix products. Not counted: biases,
norms, softmax, GELU, residual sums, scaling.
"""

from __future__ import annotations

from collections import Counter

from lavit_deploy.model.config import STAGES, LaViTConfig

PARTS = (
    "patch_embed",
    "attention_projections",
    "attention_scores_values",
    "la_transform",
    "attention_residual",
    "mlp",
    "head",
)
"""The parts that a count is split into, in the order of the network."""


def parameter_count(config: LaViTConfig) -> Counter[str]:
    """Trainable parameters by part; their sum is the model's."""
    count: Counter[str] = Counter()
    channels = config.in_channels
    for stage in range(STAGES):
        dim, patch = config.dims[stage], config.patch_sizes[stage]
        tokens, keys, ratio = config.tokens(stage), config.keys(stage), config.sr_ratios[stage]
        norm = 2 * dim
        count["patch_embed"] += channels * dim * patch**2 + dim + norm
        if config.has_class_token(stage):
            count["patch_embed"] += dim
        for layer in range(config.depths[stage]):
            hidden = dim * config.mlp_ratios[stage]
            count["mlp"] += dim * hidden + hidden + hidden * dim + dim + norm
            less = config.is_less_attention(stage, layer)
            projections = 2 if less else 4  # v, proj against q, k, v, proj
            count["attention_projections"] += projections * (dim * dim + dim) + norm
            if ratio > 1:
                count["attention_projections"] += dim * dim * ratio**2 + dim + norm
            if less:
                count["la_transform"] += keys**2 + keys + tokens**2 + tokens
        if config.attention_residual and stage > 0:
            before, heads = config.heads[stage - 1], config.heads[stage]
            count["attention_residual"] += before * patch**2 + 2 * before + before * heads + heads
        channels = dim
    count["head"] = 2 * channels + channels * config.num_classes + config.num_classes
    return count


def multiply_adds(config: LaViTConfig) -> Counter[str]:
    """Multiply-adds of one image by part; their sum is the model's."""
    count: Counter[str] = Counter()
    for stage in range(STAGES):
        count += stage_multiply_adds(config, stage)
    count["head"] = config.dims[-1] * config.num_classes
    return count


def stage_multiply_adds(config: LaViTConfig, stage: int) -> Counter[str]:
    """Multiply-adds of one image in 0-based `stage` by part, without the head after the last."""
    count: Counter[str] = Counter()
    dim, patch, ratio = config.dims[stage], config.patch_sizes[stage], config.sr_ratios[stage]
    tokens, keys, heads = config.tokens(stage), config.keys(stage), config.heads[stage]
    channels = config.dims[stage - 1] if stage else config.in_channels
    height, width = config.grid(stage)
    count["patch_embed"] = height * width * channels * dim * patch**2
    for layer in range(config.depths[stage]):
        count["mlp"] += 2 * tokens * dim * dim * config.mlp_ratios[stage]
        less = config.is_less_attention(stage, layer)
        per_token, per_key = (1, 1) if less else (2, 2)  # (q and) proj; (k and) v
        count["attention_projections"] += (per_token * tokens + per_key * keys) * dim * dim
        if ratio > 1:
            count["attention_projections"] += keys * dim * dim * ratio**2
        if less:
            count["la_transform"] += heads * tokens * keys * (keys + tokens)
            count["attention_scores_values"] += tokens * keys * dim
        else:
            count["attention_scores_values"] += 2 * tokens * keys * dim
    if config.attention_residual and stage > 0:
        before = config.heads[stage - 1]
        key_height, key_width = config.key_grid(stage)
        maps = key_height * key_width * height * width
        count["attention_residual"] = maps * (before * patch**2 + before * heads)
    return count
