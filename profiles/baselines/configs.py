"""Sizes of the baselines that no closed form needs to know."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """ResNet (He et al., arXiv:1512.03385), stride in the 3 x 3 convolution of a bottleneck.

    Attributes:
        image_size: input height and width, pixels.
        depths: residual layers of each stage.
        dims: output channels of each stage.
        bottleneck: whether a layer is 1 x 1, 3 x 3, 1 x 1 instead of two 3 x 3 convolutions.
        num_classes: outputs of the classifier.
    """

    image_size: tuple[int, int] = (224, 224)
    depths: tuple[int, ...]
    dims: tuple[int, ...] = (256, 512, 1024, 2048)
    bottleneck: bool = True
    num_classes: int = 1000


@dataclass(frozen=True, kw_only=True)
class RegNetYConfig:
    """RegNetY (Radosavovic et al., arXiv:2003.13678).

    Attributes:
        image_size: input height and width, pixels.
        depths: residual layers of each stage.
        dims: channels of each stage.
        group_width: channels of a group in the 3 x 3 convolutions.
        num_classes: outputs of the classifier.
    """

    image_size: tuple[int, int] = (224, 224)
    depths: tuple[int, ...]
    dims: tuple[int, ...]
    group_width: int
    num_classes: int = 1000


@dataclass(frozen=True, kw_only=True)
class EfficientNetConfig:
    """EfficientNet (Tan and Le, arXiv:1905.11946, Table 1 and equation 3).

    Attributes:
        image_size: input height and width, pixels.
        width: multiple of the channels of B0.
        depth: multiple of the layers of B0.
        head: channels before the classifier.
        padded: layers whose odd input sizes need one more pixel of padding on each side.
        num_classes: outputs of the classifier.
    """

    image_size: tuple[int, int]
    width: float
    depth: float
    head: int
    padded: tuple[int, ...]
    num_classes: int = 1000


@dataclass(frozen=True, kw_only=True)
class CvtConfig:
    """CvT (Wu et al., arXiv:2103.15808).

    Attributes:
        image_size: input height and width, pixels.
        depths: layers of the three stages.
        dims: channels.
        heads: attention heads.
        num_classes: outputs of the classifier.
    """

    image_size: tuple[int, int] = (224, 224)
    depths: tuple[int, int, int]
    dims: tuple[int, int, int] = (64, 192, 384)
    heads: tuple[int, int, int] = (1, 3, 6)
    num_classes: int = 1000


@dataclass(frozen=True, kw_only=True)
class LitConfig:
    """LIT (Pan et al., arXiv:2105.14217): attention in the last two stages only.

    Attributes:
        image_size: input height and width, pixels.
        depths: layers.
        dim: channels of the first stage; each later stage doubles them.
        heads: attention heads; of no use in stages without attention.
        attention: whether a stage has attention.
        mlp_ratio: hidden width of the MLP as a multiple of the channels.
        patch: side of a patch, pixels.
        num_classes: outputs of the classifier.
    """

    image_size: tuple[int, int] = (224, 224)
    depths: tuple[int, ...]
    dim: int = 96
    heads: tuple[int, ...] = (3, 6, 12, 24)
    attention: tuple[bool, ...] = (False, False, True, True)
    mlp_ratio: int = 4
    patch: int = 4
    num_classes: int = 1000


@dataclass(frozen=True, kw_only=True)
class EfficientViTConfig:
    """EfficientViT, B series (Cai et al., arXiv:2205.14756).

    Attributes:
        image_size: input height and width, pixels.
        dims: channels of the stem and the four stages.
        depths: blocks of the stem and the four stages, without the strided one of the last two.
        head_dim: channels of an attention head.
        expand: hidden width of an inverted bottleneck as a multiple of its channels.
        head: channels of the two layers before the classifier.
        num_classes: outputs of the classifier.
    """

    image_size: tuple[int, int] = (224, 224)
    dims: tuple[int, int, int, int, int]
    depths: tuple[int, int, int, int, int]
    head_dim: int = 32
    expand: int = 4
    head: tuple[int, int]
    num_classes: int = 1000
