"""Every baseline with its sizes and its authors' counts."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lavit_deploy.model.config import LaViTConfig
from lavit_deploy.profiles.baselines.base import Baseline
from lavit_deploy.profiles.baselines.configs import (
    CvtConfig,
    EfficientNetConfig,
    EfficientViTConfig,
    LitConfig,
    RegNetYConfig,
    ResNetConfig,
)
from lavit_deploy.profiles.baselines.published import Published
from lavit_deploy.profiles.counting.closed_form import PvtV2Config, SwinConfig, ViTConfig

_TORCHVISION = "torchvision, documentation of the weights (their counts, the same architecture)"
_REGNET = "Radosavovic et al., arXiv:2003.13678, the RegNetY models chosen"
_PVT = "Wang et al., Pyramid Vision Transformer, arXiv:2102.12122, ImageNet results"
_PVT_V2 = (
    "Wang et al., PVT v2, arXiv:2106.13797, ImageNet results; "
    "parameters of B1 as the authors' repository whai362/PVT corrects them (13.1 M before)"
)
_SWIN = "Liu et al., Swin Transformer, arXiv:2103.14030, ImageNet results"
_DEIT = (
    "Touvron et al., DeiT, arXiv:2012.12877, with the digits that PVT's authors print in their "
    "comparison, arXiv:2102.12122"
)
_CVT = "Wu et al., CvT, arXiv:2103.15808, ImageNet results"
_DEEPVIT = "Zhou et al., DeepViT, arXiv:2103.11886; sizes of the authors' repository"
_DYNAMICVIT = (
    "Rao et al., DynamicViT, arXiv:2106.02034 (FLOPs of rho = 0.9); parameters: DeiT-S's 22.1 M "
    "and three predictors as in the authors' repository"
)
_EVIT = "Liang et al., EViT, arXiv:2202.07800, and the authors' repository youweiliang/evit"
_PPT = "Wu et al., PPT, repository xjwu1024/PPT: 2.944 G for --r_tokens 50 --pp_loc_list 3 6 9"
_LIT = "Pan et al., LIT, arXiv:2105.14217, and the authors' repository ziplab/LIT"
_EFFICIENTVIT = "Cai et al., EfficientViT, arXiv:2205.14756, repository mit-han-lab/efficientvit"

_REDUCED_AT = (3, 6, 9)


def _resnet(name: str, config: ResNetConfig, parameters_m: float, gflops: float) -> Baseline:
    return Baseline(name, "resnet", config, Published(parameters_m, gflops, _TORCHVISION))


def _regnet(name: str, config: RegNetYConfig, parameters_m: float, gflops: float) -> Baseline:
    return Baseline(name, "regnet", config, Published(parameters_m, gflops, _REGNET))


def _pvt(name: str, depths: tuple[int, ...], parameters_m: float, gflops: float) -> Baseline:
    config = LaViTConfig(
        depths=depths,
        dims=(64, 128, 320, 512),
        heads=(1, 2, 5, 8),
        mlp_ratios=(8, 8, 4, 4),
        sr_ratios=(8, 4, 2, 1),
        la_start=(0, 0, 0, 0),
        attention_residual=False,
        class_token=True,
    )
    return Baseline(name, "pvt", config, Published(parameters_m, gflops, _PVT))


def _pvt_v2(name: str, depths: tuple[int, ...], parameters_m: float, gflops: float) -> Baseline:
    return Baseline(
        name, "pvt_v2", PvtV2Config(depths=depths), Published(parameters_m, gflops, _PVT_V2)
    )


def _swin(name: str, config: SwinConfig, parameters_m: float, gflops: float) -> Baseline:
    return Baseline(name, "swin", config, Published(parameters_m, gflops, _SWIN))


def _vit(name: str, dim: int, heads: int, published: Published) -> Baseline:
    return Baseline(name, "vit", ViTConfig(dim=dim, heads=heads), published)


def _lit(name: str, depths: tuple[int, ...], parameters_m: float, gflops: float) -> Baseline:
    return Baseline(name, "lit", LitConfig(depths=depths), Published(parameters_m, gflops, _LIT))


def _dynamicvit(name: str, dim: int, heads: int, published: Published | None) -> Baseline:
    config = ViTConfig(
        dim=dim, heads=heads, reduction="dynamicvit", reduced_at=_REDUCED_AT, keep=0.9
    )
    return Baseline(name, "plain", config, published)


def _evit(name: str, dim: int, heads: int, parameters_m: float, gflops: float) -> Baseline:
    config = ViTConfig(dim=dim, heads=heads, reduction="evit", reduced_at=_REDUCED_AT, keep=0.9)
    return Baseline(name, "plain", config, Published(parameters_m, gflops, _EVIT))


def _ppt(name: str, dim: int, heads: int, published: Published | None) -> Baseline:
    config = ViTConfig(dim=dim, heads=heads, reduction="ppt", reduced_at=_REDUCED_AT, removed=50)
    notes = ("random weights give even attention, so that every image has its tokens merged",)
    return Baseline(name, "plain", config, published, notes)


BASELINES: Mapping[str, Baseline] = MappingProxyType(
    {
        baseline.name: baseline
        for baseline in (
            _resnet(
                "resnet_18",
                ResNetConfig(depths=(2, 2, 2, 2), dims=(64, 128, 256, 512), bottleneck=False),
                11.7,
                1.81,
            ),
            _resnet("resnet_50", ResNetConfig(depths=(3, 4, 6, 3)), 25.6, 4.09),
            _resnet("resnet_101", ResNetConfig(depths=(3, 4, 23, 3)), 44.5, 7.80),
            _regnet(
                "regnet_y_1_6g",
                RegNetYConfig(depths=(2, 6, 17, 2), dims=(48, 120, 336, 888), group_width=24),
                11.2,
                1.6,
            ),
            _regnet(
                "regnet_y_4g",
                RegNetYConfig(depths=(2, 6, 12, 2), dims=(128, 192, 512, 1088), group_width=64),
                20.6,
                4.0,
            ),
            Baseline(
                "efficientnet_b4",
                "efficientnet",
                EfficientNetConfig(
                    image_size=(380, 380), width=1.4, depth=1.8, head=1792, padded=(6,)
                ),
                Published(19.3, 4.39, _TORCHVISION),
                ("at its own 380 pixels",),
            ),
            Baseline(
                "efficientvit_b2",
                "efficientvit",
                EfficientViTConfig(
                    dims=(24, 48, 96, 192, 384), depths=(1, 3, 4, 4, 6), head=(2304, 2560)
                ),
                Published(24.0, 1.6, _EFFICIENTVIT),
            ),
            _vit("deit_tiny", 192, 3, Published(5.7, 1.3, _DEIT)),
            _vit("deit_small", 384, 6, Published(22.1, 4.6, _DEIT)),
            _vit("deit_base", 768, 12, Published(86.6, 17.6, _DEIT)),
            _vit("vit_b", 768, 12, Published(86.6, 17.56, _TORCHVISION)),
            _pvt("pvt_tiny", (2, 2, 2, 2), 13.2, 1.9),
            _pvt("pvt_small", (3, 4, 6, 3), 24.5, 3.8),
            _pvt("pvt_medium", (3, 4, 18, 3), 44.2, 6.7),
            _pvt("pvt_large", (3, 8, 27, 3), 61.4, 9.8),
            _pvt_v2("pvt_v2_b1", (2, 2, 2, 2), 14.0, 2.1),
            _pvt_v2("pvt_v2_b2", (3, 4, 6, 3), 25.4, 4.0),
            Baseline(
                "deepvit_s",
                "plain",
                ViTConfig(dim=396, depth=16, heads=12, mlp_ratio=3, stem=64, mixed_heads=5),
                Published(27.0, 6.2, _DEEPVIT),
            ),
            Baseline("cvt_13", "cvt", CvtConfig(depths=(1, 2, 10)), Published(20.0, 4.5, _CVT)),
            _swin("swin_tiny", SwinConfig(depths=(2, 2, 6, 2)), 28.3, 4.5),
            _swin("swin_small", SwinConfig(depths=(2, 2, 18, 2)), 49.6, 8.7),
            _swin(
                "swin_base",
                SwinConfig(depths=(2, 2, 18, 2), dim=128, heads=(4, 8, 16, 32)),
                87.8,
                15.4,
            ),
            _dynamicvit("dynamicvit_s", 384, 6, Published(22.8, 4.0, _DYNAMICVIT)),
            _dynamicvit("dynamicvit_b", 768, 12, None),
            _evit("evit_s", 384, 6, 22.1, 4.0),
            _evit("evit_b", 768, 12, 86.6, 15.3),
            _lit("lit_s", (2, 2, 6, 2), 27.0, 4.1),
            _lit("lit_m", (2, 2, 18, 2), 48.0, 8.6),
            _ppt("ppt_s", 384, 6, Published(22.1, 2.944, _PPT)),
            _ppt("ppt_b", 768, 12, None),
        )
    }
)
"""Every baseline by its name on a command line."""
