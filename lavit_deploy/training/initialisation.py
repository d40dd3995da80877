"""Weights that a training begins from: drawn by a rule, or from a checkpoint of this project."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor, nn

from lavit_deploy.checkpoint import load_checkpoint
from lavit_deploy.common.errors import UsageError
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
    """The weights of a checkpoint of the same architecture, for a training that goes on from it.

    Raises:
        CheckpointError: it cannot be read.
        UsageError: it is of another architecture; says what differs.
    """
    checkpoint = load_checkpoint(path)
    if checkpoint.config != config:
        theirs, ours = checkpoint.config.to_dict(), config.to_dict()
        differs = [
            f"{name} {theirs[name]} -> {ours[name]}"
            for name in ours
            if theirs.get(name) != ours[name]
        ]
        raise UsageError(f"{path} is of another architecture: {', '.join(differs)}")
    return dict(checkpoint.state_dict)
