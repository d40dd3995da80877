"""Weights that a training begins from: drawn by a rule, or from a checkpoint of this project."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from lavit_deploy.checkpoint import load_checkpoint
from lavit_deploy.common.errors import UsageError
from lavit_deploy.families.family import Configuration
from lavit_deploy.model.config import LaViTConfig
from lavit_deploy.model.lavit import LaViT, LessAttention


def xavier(model: LaViT) -> None:
    """Draw the linear layers anew, with the standard deviation that their sizes ask for.

    PVT's 0.02 is right for some 2500 inputs and outputs; in a layer of 64 it makes every branch six
    times smaller than its input, and small models lose their first epochs to growing out of it
    (X. Glorot, Y. Bengio, AISTATS 2010, Eq. 12). Theta, Psi and the classifier stay as they are.
    """
    maps = {
        id(linear)
        for module in model.modules()
        if isinstance(module, LessAttention)
        for linear in (module.theta, module.psi)
    }
    for module in model.modules():
        if isinstance(module, nn.Linear) and id(module) not in maps and module is not model.head:
            std = math.sqrt(2.0 / (module.in_features + module.out_features))
            nn.init.trunc_normal_(module.weight, std=std, a=-2.0 * std, b=2.0 * std)


def weights_of(path: Path, config: LaViTConfig) -> dict[str, Tensor]:
    """The weights of a checkpoint, for a training that goes on from it, perhaps with more layers.

    Layers may have been added at the end of stages. They must be less-attention layers, and begin
    as the identity: branches that add nothing, and scores that are handed on as they are. So the
    model begins with the very function of the checkpoint (T. Chen et al., arXiv:1511.05641).

    Returns:
        Tensors by name. What new layers draw at random is not among them.

    Raises:
        CheckpointError: it cannot be read.
        UsageError: it is of another architecture that does not become this one by such layers; says
            what differs.
    """
    checkpoint = load_checkpoint(path)
    theirs = checkpoint.config
    if theirs == config:
        return dict(checkpoint.state_dict)
    if not isinstance(theirs, LaViTConfig) or not _has_only_more_layers(theirs, config):
        raise UsageError(f"{path} is of another architecture: {_differences(theirs, config)}")
    weights = dict(checkpoint.state_dict)
    for stage, (begin, end) in enumerate(zip(theirs.depths, config.depths, strict=True)):
        for layer in range(begin, end):
            prefix = f"stages.{stage}.blocks.{layer}"
            weights |= {f"{prefix}.{name}": value for name, value in _identity(config, stage)}
    return weights


def _has_only_more_layers(before: LaViTConfig, after: LaViTConfig) -> bool:
    """Whether `after` is `before` with less-attention layers added at the end of stages."""
    if dataclasses.replace(after, depths=before.depths, la_start=before.la_start) != before:
        return False
    return all(
        old <= new
        and all(
            before.is_less_attention(stage, layer) == after.is_less_attention(stage, layer)
            for layer in range(old)
        )
        and all(after.is_less_attention(stage, layer) for layer in range(old, new))
        for stage, (old, new) in enumerate(zip(before.depths, after.depths, strict=True))
    )


def _identity(config: LaViTConfig, stage: int) -> Iterator[tuple[str, Tensor]]:
    """Weights of a less-attention layer by name that decide that it changes nothing."""
    dim = config.dims[stage]
    hidden = dim * config.mlp_ratios[stage]
    sizes = {"attn.theta": config.keys(stage), "attn.psi": config.tokens(stage)}
    for name, size in sizes.items():
        yield f"{name}.weight", torch.eye(size)
        yield f"{name}.bias", torch.zeros(size)
    for name, inputs in (("attn.proj", dim), ("mlp.fc2", hidden)):
        yield f"{name}.weight", torch.zeros(dim, inputs)
        yield f"{name}.bias", torch.zeros(dim)


def _differences(before: Configuration, after: LaViTConfig) -> str:
    theirs, ours = before.to_dict(), after.to_dict()
    return ", ".join(
        f"{name} {theirs.get(name)} -> {ours[name]}"
        for name in ours
        if theirs.get(name) != ours[name]
    )
