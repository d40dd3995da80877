"""The form of the model that every mobile format can take whole.

Fixed batch of one, nothing above four dimensions, no three-dimensional convolution, constants on
the right of every product (`F.linear`), which is what delegates and quantizers recognise.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from lavit_deploy.export.graphs.lavit_only import need_lavit
from lavit_deploy.folding.fold import default_rewrites, fold
from lavit_deploy.folding.modules.model import FoldedLaViT
from lavit_deploy.folding.modules.patches import FoldedPatchEmbed, PatchProduct, Reduction
from lavit_deploy.folding.modules.scores import FoldedResidual
from lavit_deploy.folding.rewrites.absorbed_projections import AbsorbProjections
from lavit_deploy.preprocess import Preprocess

_PIXEL_SCALE = 256.0


class MobilePatches(nn.Module):
    """`PatchProduct` of one picture, in four dimensions.

    The first one takes pixels of 0..255, and its weights are as much smaller than others: 5 % of
    those of the shipped checkpoint lie below float16's smallest normal number. ncnn writes such
    weights as zeros (the cosine of the logits fell to 0.98), so pixels are divided by a power of
    two, and weights multiplied, which is exact.

    Args:
        source: the product; its weights are shared, unless `pixels`.
        pixels: it takes pixels.
    """

    def __init__(self, source: PatchProduct, *, pixels: bool) -> None:
        super().__init__()
        self.linear = source.linear
        self.pixels = pixels
        if pixels:
            self.linear = copy.deepcopy(source.linear)
            with torch.no_grad():
                self.linear.weight.mul_(_PIXEL_SCALE)
        self.grid = source.grid
        self.patch = source.patch

    def forward(self, x: Tensor) -> Tensor:
        """[1, h*p, w*p, C] or [1, h*p * w*p, C] -> [1, N, D]."""
        patch = self.patch
        height, width = self.grid[0] // patch, self.grid[1] // patch
        run = patch * x.shape[-1]
        x = x.to(self.linear.weight.dtype)
        if self.pixels:
            x = x * (1 / _PIXEL_SCALE)
        x = x.reshape(height, patch, width, run)  # -> [h, p, w, p*C]
        x = x.transpose(1, 2)  # -> [h, w, p, p*C]
        return self.linear(x.reshape(1, height * width, patch * run))  # -> [1, N, p*p*C]


class MobileResidual(nn.Module):
    """`FoldedResidual` as permutations of four dimensions and a 1 x 1 convolution over heads.

    The result is laid out anew at the end, and nothing but a sum stands between it and a softmax.
    ExecuTorch's XNNPACK delegate keeps a convolution's result with its channels innermost, and a
    softmax along the last dimension that follows directly then runs along the channels, silently.
    A reshape in between ends that layout; `contiguous` does not, it is removed as a no-op.

    Args:
        source: the residual; kernel and stride (p, p, 1).
    """

    def __init__(self, source: FoldedResidual) -> None:
        super().__init__()
        conv = source.conv
        heads_out, heads_in, patch = conv.weight.shape[:3]
        self.mix = nn.Conv2d(heads_in * patch * patch, heads_out, 1, bias=conv.bias is not None)
        # [H, H', p, p, 1] -> [H, H'*p*p, 1, 1]
        self.mix.weight = nn.Parameter(
            conv.weight.detach().reshape(heads_out, -1, 1, 1), requires_grad=False
        )
        if conv.bias is not None:
            self.mix.bias = nn.Parameter(conv.bias.detach().clone(), requires_grad=False)
        self.heads = heads_in
        self.patch = patch
        self.grid = source.grid
        self.class_token = source.class_token

    def forward(self, scores: Tensor) -> Tensor:
        """[1, H', N', M] of the previous stage -> [1, H, N, M] of this one."""
        heads, patch = self.heads, self.patch
        height, width = self.grid[0] // patch, self.grid[1] // patch
        keys = scores.shape[-1]
        # N' = (h, p, w, p): the two p go in front, one at a time.
        x = scores.reshape(heads, height, patch, width * patch * keys)  # -> [H', h, p, w*p*M]
        x = x.transpose(1, 2)  # -> [H', p, h, w*p*M]
        x = x.reshape(heads * patch * height, width, patch, keys)  # -> [H'*p*h, w, p, M]
        x = x.transpose(1, 2)  # -> [H'*p*h, p, w, M]
        x = x.reshape(heads * patch, height, patch, width * keys)  # -> [H'*p, h, p, w*M]
        x = x.transpose(1, 2)  # -> [H'*p, p, h, w*M]
        # -> [1, H'*p*p, h*w, M]
        x = x.reshape(1, heads * patch * patch, height * width, keys)
        x = self.mix(x)  # [1, H, N, M]
        x = x.flatten(1).reshape(1, -1, height * width, keys)  # [1, H*N*M] -> [1, H, N, M]
        if self.class_token:  # the token has no scores before: a zero row and column
            x = nn.functional.pad(x, (1, 0, 1, 0))
        return x


class ChannelsFirst(nn.Module):
    """The model for formats whose pictures are float [1, C, H, W] on the 0..255 scale.

    Args:
        model: takes [1, H, W, C].
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.permute(0, 2, 3, 1))  # [1, C, H, W] -> [1, H, W, C]


def mobile_form(model: nn.Module, preprocess: Preprocess) -> FoldedLaViT:
    """An equal model for one picture, uint8 or float [1, H, W, C] on the 0..255 scale.

    Projections are not absorbed into the keys: that trades products with constants, which
    quantizers and delegates are made for, for products of activations.

    Args:
        model: the trained model; it is not changed.
        preprocess: mean and std of its training; they become part of the weights.

    Raises:
        ExportError: a rewrite did not keep its contract, or the model is no LaViT.
    """
    rewrites = [item for item in default_rewrites() if not isinstance(item, AbsorbProjections)]
    lavit = need_lavit(model, "the form for phones and boards")
    folded = fold(lavit, preprocess, rewrites=rewrites).model
    for index in range(len(folded.stages)):
        stage = folded.stage(index)
        if isinstance(stage.residual, FoldedResidual):
            stage.residual = MobileResidual(stage.residual)
    first = folded.stage(0).patch_embed
    for holder in folded.modules():
        if isinstance(holder, FoldedPatchEmbed | Reduction) and isinstance(
            holder.patches, PatchProduct
        ):
            holder.patches = MobilePatches(holder.patches, pixels=holder is first)
    return folded.eval()


def write_program(model: FoldedLaViT, path: Path, *, planar: bool) -> None:
    """Trace the mobile form and save it as a `torch.export` program.

    Args:
        model: from `mobile_form`.
        path: a `.pt2` file.
        planar: take float32 [1, C, H, W] on the 0..255 scale; else uint8 [1, H, W, C].
    """
    height, width = model.config.image_size
    channels = model.config.in_channels
    module: nn.Module = ChannelsFirst(model) if planar else model
    example = (
        torch.zeros(1, channels, height, width)
        if planar
        else torch.zeros(1, height, width, channels, dtype=torch.uint8)
    )
    with torch.no_grad():
        program = torch.export.export(module.eval(), (example,), strict=False)
    torch.export.save(program, path)
