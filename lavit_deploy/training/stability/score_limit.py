"""Keeps attention scores from growing without bound, by the weights that make them.

Adam moves every weight by about the learning rate, whatever its gradient, so with a large rate the
products of query and key weights grow in a few steps to scores of hundreds. Their softmax is then
one-hot and has no gradient: the layer attends to one key for ever. After each step this module
scales the weights of the heads whose scores were too large, as QK-Clip does (Kimi K2, Moonshot AI,
arXiv:2507.20534, Section 2.1): the architecture and what is exported stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lavit_deploy.model.lavit import LaViT, LessAttention, VanillaAttention


class ScoreLimit:
    """The limit on one model's scores.

    Args:
        model: what is trained; its attention layers are watched from now on.
        limit: largest size that a score may have, before the softmax.
        shared: gives the largest of all processes' values, elementwise.
    """

    def __init__(
        self, model: LaViT, limit: float, shared: Callable[[Tensor], Tensor] = lambda values: values
    ) -> None:
        self.limit = limit
        self.shared = shared
        self.layers: list[VanillaAttention | LessAttention] = [
            module
            for module in model.modules()
            if isinstance(module, VanillaAttention | LessAttention)
        ]
        self._largest: dict[nn.Module, Tensor] = {}
        for layer in self.layers:
            layer.register_forward_hook(self._note)

    @torch.no_grad()
    def _note(self, layer: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401 - torch's form
        """Largest score by head, [H], since the last step; those led in from elsewhere left out."""
        if not layer.training:
            return
        scores = output[1]  # [B, H, N, M]
        if isinstance(layer, VanillaAttention) and arguments[1] is not None:
            scores = scores - arguments[1]  # the attention residual, which q and k do not make
        largest = scores.detach().abs().amax(dim=(0, 2, 3))
        before = self._largest.get(layer)
        self._largest[layer] = largest if before is None else torch.maximum(before, largest)

    @torch.no_grad()
    def apply(self) -> None:
        """Scale down what made too large scores since the last call. All processes call this."""
        if len(self._largest) < len(self.layers):
            return  # nothing was computed
        parts = [self._largest[layer] for layer in self.layers]
        shared = torch.split(self.shared(torch.cat(parts)), [len(part) for part in parts])
        for layer, largest in zip(self.layers, shared, strict=True):
            share = (self.limit / largest.clamp_min(self.limit)).nan_to_num(1.0)  # [H], at most 1
            if isinstance(layer, VanillaAttention):
                _scale_heads(layer, share)
            else:  # one pair of maps for all heads
                layer.psi.weight.mul_(share.min())
                layer.psi.bias.mul_(share.min())
        self._largest.clear()


def _scale_heads(layer: VanillaAttention, share: Tensor) -> None:
    """Queries and keys of each head by the root of its share, so that their product has it."""
    dim = layer.q.out_features
    root = share.sqrt().repeat_interleave(dim // layer.heads)  # [H] -> [D]
    layer.q.weight.mul_(root[:, None])
    layer.q.bias.mul_(root)
    layer.kv.weight[:dim].mul_(root[:, None])  # rows [0, D) are keys, [D, 2D) values
    layer.kv.bias[:dim].mul_(root)
