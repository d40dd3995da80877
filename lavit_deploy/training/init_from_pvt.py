"""Initial weights from an official PVT v1 checkpoint.

The names are those of W. Wang et al.'s code (classification/pvt.py at
https://github.com/whai362/PVT): `patch_embed1.proj`, `block1.0.attn.{q,kv,sr,norm,proj}`, `norm1`,
`mlp.fc1`, `norm`, `head`.
Vanilla layers, MLPs and patch embeddings correspond one to one. A less-attention layer takes its
values from the second half of `kv`; its queries and keys have no place in a LaViT, and Theta, Psi
and the attention residuals, which PVT lacks, keep their own initialisation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lavit_deploy.checkpoint import read_state_dict
from lavit_deploy.common.errors import CheckpointError
from lavit_deploy.model.config import LaViTConfig
from lavit_deploy.model.lavit import LaViT

_BLOCK = re.compile(r"block(\d)\.(\d+)\.(.+)")
_PATCH_EMBED = re.compile(r"patch_embed(\d)\.(.+)")
_POSITION = re.compile(r"pos_embed\d")
_OWN = (".theta.", ".psi.", ".residual.")
"""Parts of a LaViT that a PVT does not have."""


@dataclass(frozen=True)
class Converted:
    """Weights of a PVT under a LaViT's names.

    Attributes:
        state_dict: tensors that the LaViT takes.
        dropped: tensors of the PVT that have no place, each with the reason.
        initial: tensors of the LaViT that keep their random or identity initialisation.
    """

    state_dict: dict[str, Tensor]
    dropped: tuple[str, ...]
    initial: tuple[str, ...]

    def report(self) -> list[str]:
        """What happened, in a few lines."""
        counts = (
            f"from PVT: {len(self.state_dict)} tensors taken, {len(self.dropped)} dropped, "
            f"{len(self.initial)} keep their own initialisation"
        )
        return [counts, *(f"  dropped {line}" for line in self.dropped)]


def load_pvt(path: Path, config: LaViTConfig) -> Converted:
    """Read a PVT v1 checkpoint and convert it.

    Raises:
        CheckpointError: unreadable, or not of a PVT whose stages have this configuration's depths
            and widths; lists every tensor that does not fit.
    """
    return convert_pvt(read_state_dict(path), config, source=str(path))


def convert_pvt(weights: dict[str, Tensor], config: LaViTConfig, *, source: str) -> Converted:
    """Rename and split the tensors of a PVT v1.

    Args:
        weights: official names.
        config: of the LaViT.
        source: where they are from, for errors.

    Raises:
        CheckpointError: they do not fit; lists every missing, unexpected and misshapen tensor.
    """
    if "patch_embed1.proj.weight" not in weights:
        raise CheckpointError(
            f"{source} has no patch_embed1.proj.weight: expected the official names of a PVT v1"
        )
    with torch.device("meta"):
        expected = LaViT(config).state_dict()
    taken: dict[str, Tensor] = {}
    dropped: list[str] = []
    for name, tensor in weights.items():
        reason = _reason_to_drop(name, tensor, config)
        if reason is not None:
            dropped.append(f"{name}: {reason}")
        if reason is None or name.startswith(("block", "patch_embed")):
            taken.update(_renamed(name, tensor, config))
    initial = tuple(key for key in expected if key not in taken)
    _check(taken, expected, [key for key in initial if not _is_own(key, dropped)], source)
    return Converted(taken, tuple(dropped), initial)


def _reason_to_drop(name: str, tensor: Tensor, config: LaViTConfig) -> str | None:
    """Why a tensor, or a part of it, is not taken; None when all of it is."""
    if _POSITION.fullmatch(name):
        return "a LaViT has no position embedding"
    if name == "cls_token" and not config.class_token:
        return "this LaViT has no class token"
    if name.startswith("head.") and tensor.shape[0] != config.num_classes:
        return f"it has {tensor.shape[0]} classes, the data has {config.num_classes}"
    block = _BLOCK.fullmatch(name)
    if block and _is_less_attention(block, config):
        if block[3].startswith("attn.q."):
            return "a less-attention layer has no queries"
        if block[3].startswith("attn.kv."):
            return "its first half: a less-attention layer has no keys"
    return None


def _is_less_attention(block: re.Match[str], config: LaViTConfig) -> bool:
    stage, layer = int(block[1]) - 1, int(block[2])
    return stage < len(config.depths) and config.is_less_attention(stage, layer)


def _renamed(name: str, tensor: Tensor, config: LaViTConfig) -> dict[str, Tensor]:
    """One tensor of a PVT under its name in a LaViT, or nothing."""
    if name == "cls_token":
        return {f"stages.{len(config.depths) - 1}.class_token": tensor}
    if match := _PATCH_EMBED.fullmatch(name):
        return {f"stages.{int(match[1]) - 1}.patch_embed.{match[2]}": tensor}
    if not (match := _BLOCK.fullmatch(name)):
        return {name: tensor}  # norm and head are called alike
    rest = re.sub(r"^attn\.sr\.", "attn.reduce.conv.", match[3])
    rest = re.sub(r"^attn\.norm\.", "attn.reduce.norm.", rest)
    if _is_less_attention(match, config):
        if rest.startswith("attn.q."):
            return {}
        if rest.startswith("attn.kv."):
            # [2D, D] or [2D] -> [D, D] or [D]: rows are K's, then V's
            tensor = tensor[tensor.shape[0] // 2 :].clone()
            rest = rest.replace("attn.kv.", "attn.v.")
    return {f"stages.{int(match[1]) - 1}.blocks.{match[2]}.{rest}": tensor}


def _is_own(key: str, dropped: list[str]) -> bool:
    """Whether a LaViT's tensor may lack a counterpart."""
    head_dropped = any(line.startswith("head.") for line in dropped)
    return any(part in key for part in _OWN) or (head_dropped and key.startswith("head."))


def _check(
    taken: dict[str, Tensor], expected: dict[str, Tensor], missing: list[str], source: str
) -> None:
    problems = [f"missing    {key} {list(expected[key].shape)}" for key in missing]
    problems += [
        f"unexpected {key} {list(tensor.shape)}"
        for key, tensor in taken.items()
        if key not in expected
    ]
    problems += [
        f"misshapen  {key} {list(tensor.shape)}, the model has {list(expected[key].shape)}"
        for key, tensor in taken.items()
        if key in expected and tensor.shape != expected[key].shape
    ]
    if problems:
        raise CheckpointError(
            f"{source} does not fit the architecture ({len(problems)} tensors):\n  "
            + "\n  ".join(problems)
        )
