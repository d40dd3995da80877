"""Pictures and token grids to patches, as convolutions or as matrix products."""

from __future__ import annotations

from torch import Tensor, nn

from lavit_deploy.model.lavit import widened


class PixelNormalisation(nn.Module):
    """uint8 pictures [B, H, W, C] to the scale of training: (x / 255 - mean) / std."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)  # [C]
        self.register_buffer("shift", shift)  # [C]

    def forward(self, images: Tensor) -> Tensor:
        return images.to(self.scale.dtype) * self.scale - self.shift


class PatchConv(nn.Module):
    """A k = s convolution of a token grid, computed as a convolution.

    Args:
        conv: the convolution, without padding.
        grid: height and width of the input grid.
    """

    def __init__(self, conv: nn.Conv2d, grid: tuple[int, int]) -> None:
        super().__init__()
        self.conv = conv
        self.grid = grid

    def forward(self, x: Tensor) -> Tensor:
        """[B, h*p, w*p, C] or [B, h*p * w*p, C] -> [B, N, D]."""
        if x.ndim == 3:
            x = x.reshape(x.shape[0], *self.grid, -1)  # [B, h*p * w*p, C] -> [B, h*p, w*p, C]
        x = x.permute(0, 3, 1, 2).to(self.conv.weight.dtype)  # -> [B, C, h*p, w*p]
        return self.conv(x).flatten(2).transpose(1, 2)  # [B, D, h, w] -> [B, D, N] -> [B, N, D]


class PatchProduct(nn.Module):
    """A k = s convolution of a token grid, computed as a matrix product.

    Channels stay innermost, so a row of a patch is one run of memory, and pictures are cut into
    patches while they are still uint8.

    Args:
        linear: p*p*C -> D; its inputs are ordered row, column, channel of a patch.
        grid: height and width of the input grid.
        patch: p.
    """

    def __init__(self, linear: nn.Linear, grid: tuple[int, int], patch: int) -> None:
        super().__init__()
        self.linear = linear
        self.grid = grid
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        """[B, h*p, w*p, C] or [B, h*p * w*p, C] -> [B, N, D]."""
        patch = self.patch
        height, width = self.grid[0] // patch, self.grid[1] // patch
        run = patch * x.shape[-1]
        x = x.reshape(x.shape[0], height, patch, width, run)  # -> [B, h, p, w, p*C]
        x = x.transpose(2, 3)  # -> [B, h, w, p, p*C]
        x = x.reshape(x.shape[0], height * width, patch * run)  # -> [B, N, p*p*C]
        # A LayerNorm follows everywhere, and LayerNorm stays float32.
        return widened(self.linear(x.to(self.linear.weight.dtype)))


class FoldedPatchEmbed(nn.Module):
    """Patches, then LayerNorm: [B, h*p * w*p, C] -> [B, N, D].

    The LayerNorm's output is the residual stream itself, which every block adds to and the next
    LayerNorm takes statistics of, so its affine has no linear layer to go to and stays.
    """

    def __init__(self, patches: PatchConv | PatchProduct, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.patches: nn.Module = patches
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.patches(x))


class Reduction(nn.Module):
    """Spatial reduction of keys and values: patches, then LayerNorm, [B, N, D] -> [B, M, D]."""

    def __init__(self, patches: PatchConv | PatchProduct, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.patches: nn.Module = patches
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.patches(x))
