"""A trained classifier whose answers are part of what a training aims at.

Distillation (G. Hinton et al., arXiv:1503.02531) with soft targets at temperature 1: since the
cross-entropy is linear in its target, mixing the teacher's probabilities into the labels is the
same as adding a second loss. The teacher sees every picture as the model does, augmented, which
is what lets small transformers learn from a convolutional network what pictures are like
(H. Touvron et al., arXiv:2012.12877, Section 4).
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from lavit_deploy.checkpoint import load_checkpoint
from lavit_deploy.common.errors import UsageError
from lavit_deploy.model.config import LaViTConfig
from lavit_deploy.preprocess import Preprocess

EXPORTED = ".pt2"
"""Suffix of a program that `torch.export.save` wrote."""


def load_teacher(
    path: Path,
    config: LaViTConfig,
    preprocess: Preprocess,
    classes: tuple[str, ...],
    device: torch.device,
) -> nn.Module:
    """A teacher for pictures of the model's size and classes.

    Args:
        path: a checkpoint that `lavit-export` takes, or a program of `torch.export.save` (.pt2)
            that takes normalised float32 pictures [B, C, H, W] of any B and gives logits [B, K].
        config: of the model that learns.
        preprocess: of the model that learns; a checkpoint must have the same.
        classes: of the data; a checkpoint must have the same.
        device: where it answers.

    Raises:
        CheckpointError: a checkpoint cannot be read.
        UsageError: a program cannot be read, or the teacher's inputs or outputs are not the
            model's.
    """
    if path.suffix == EXPORTED:
        teacher = _exported(path)
    else:
        checkpoint = load_checkpoint(path)
        if checkpoint.classes != classes:
            raise UsageError(
                f"the teacher {path} knows the classes {', '.join(checkpoint.classes)}; the data "
                f"has {', '.join(classes)}"
            )
        if checkpoint.preprocess != preprocess:
            raise UsageError(
                f"the teacher {path} sees pictures as {checkpoint.preprocess}; the model sees them "
                f"as {preprocess}"
            )
        teacher = checkpoint.build()
    teacher = teacher.to(device).requires_grad_(requires_grad=False)
    _check_answer(teacher, path, config, device)
    return teacher


def _exported(path: Path) -> nn.Module:
    try:
        return torch.export.load(path).module()
    except (RuntimeError, ValueError, KeyError, OSError, zipfile.BadZipFile, pickle.PickleError):
        raise UsageError(f"{path} is no program that torch.export.save wrote") from None


@torch.inference_mode()
def _check_answer(
    teacher: nn.Module, path: Path, config: LaViTConfig, device: torch.device
) -> None:
    """Batches of two sizes, so that a program for one size only is found before the training."""
    for batch in (2, 3):
        shape = (batch, config.in_channels, *config.image_size)
        wanted = (batch, config.num_classes)
        try:
            answer = teacher(torch.zeros(shape, device=device))
        except (RuntimeError, AssertionError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UsageError(f"the teacher {path} does not take {shape}: {reason}") from None
        found = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        if found != wanted:
            raise UsageError(f"the teacher {path} gives {found} for {shape}; it must give {wanted}")


@torch.no_grad()
def taught(targets: Tensor, logits: Tensor, share: float) -> Tensor:
    """Targets of which a share is the teacher's answer.

    Args:
        targets: class probabilities [B, K].
        logits: the teacher's [B, K].
        share: of the answer, 0 to 1.
    """
    return torch.lerp(targets, logits.float().softmax(dim=-1), share)
