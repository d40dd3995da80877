"""The attention residual to one convolution."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from lavit_deploy.folding.modules.model import FoldedLaViT
from lavit_deploy.folding.modules.scores import FoldedResidual
from lavit_deploy.folding.rewrite import ContractError, Rewrite
from lavit_deploy.folding.softmax_invariance import key_constants_matter
from lavit_deploy.model.lavit import AttentionResidual


class FoldAttentionResiduals(Rewrite):
    """Depthwise convolution, BatchNorm, 1x1 convolution and LayerScale are one linear map.

    With BatchNorm's y = a x + c at inference, a = g / sqrt(variance + eps), c = b - a mean, and
    LayerScale s: kernel[h, h', i, j] = s_h W1[h, h'] a_h' W0[h', i, j], shift[h] = s_h W1[h] . c.
    The shift is the same for every key; where softmax alone reads the scores it is left out.
    """

    name = "attention-residuals"

    def requires(self, model: FoldedLaViT) -> None:
        for index, module in enumerate(_literal(model)):
            if module.training:
                raise ContractError(f"attention residual {index + 1} is in training mode")
            if module.norm.running_var is None:
                raise ContractError(f"attention residual {index + 1} has no running statistics")

    def apply(self, model: FoldedLaViT) -> int:
        changed = 0
        for index in range(len(model.stages)):
            stage = model.stage(index)
            if isinstance(stage.residual, AttentionResidual):
                config = model.config
                with_shift = config.has_class_token(index) or key_constants_matter(config, index, 0)
                stage.residual = _folded(stage.residual, with_shift=with_shift)
                changed += 1
        return changed

    def ensures(self, model: FoldedLaViT) -> None:
        if _literal(model) or any(isinstance(item, nn.BatchNorm2d) for item in model.modules()):
            raise ContractError("a BatchNorm is left")


def _literal(model: FoldedLaViT) -> list[AttentionResidual]:
    return [module for module in model.modules() if isinstance(module, AttentionResidual)]


def _folded(residual: AttentionResidual, *, with_shift: bool) -> FoldedResidual:
    norm = residual.norm
    depthwise = residual.dwconv.weight[:, 0]  # [H', p, p]
    pointwise = residual.pointwise.weight[:, :, 0, 0] * residual.scale[:, None]  # [H, H']
    mean, variance = cast("Tensor", norm.running_mean), cast("Tensor", norm.running_var)
    gain = norm.weight / torch.sqrt(variance + norm.eps)  # [H']
    kernel = torch.einsum("oh,h,hij->ohij", pointwise, gain, depthwise)
    heads, before = pointwise.shape
    size = (kernel.shape[2], kernel.shape[3], 1)
    conv = nn.Conv3d(before, heads, size, stride=size, bias=with_shift, device="meta")
    conv.weight = nn.Parameter(kernel[..., None], requires_grad=False)  # [H, H', p, p, 1]
    if with_shift:
        shift = pointwise @ (norm.bias - gain * mean)  # [H]
        conv.bias = nn.Parameter(shift, requires_grad=False)
    return FoldedResidual(conv, residual.grid, class_token=residual.class_token)
