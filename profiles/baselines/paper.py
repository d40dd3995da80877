"""What the LaViT paper prints about itself and its baselines, in its Table 2."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from lavit_deploy.profiles.baselines.family import Published


@dataclass(frozen=True)
class TableRow:
    """One row of Table 2 of Zhang et al., arXiv:2406.00427.

    Attributes:
        label: as printed.
        model: the preset or baseline of this project that it names.
        parameters_m: parameters, millions.
        gflops: multiply-adds, 10^9.
        images_per_second: throughput on the authors' GPU.
        remark: what is known to be wrong with the printed row; "" where nothing is.
    """

    label: str
    model: str
    parameters_m: float
    gflops: float
    images_per_second: int
    remark: str = ""

    @property
    def published(self) -> Published:
        """Its counts."""
        return Published(self.parameters_m, self.gflops, TABLE_2_SOURCE)


TABLE_2_SOURCE = "Zhang et al., arXiv:2406.00427, Table 2"

_LAVIT_FLOPS = "no reading of the paper gives the FLOPs that it prints for LaViT"
_LAVIT_ROW = (
    f"the row of Table 1 is illegible: depths and start of less-attention are ours; {_LAVIT_FLOPS}"
)

_LIT = (
    "its authors print whole millions; the sizes in their repository have 28.0 M (S) and 49.4 M "
    "(M), of which the classifier is 0.8 M"
)

TABLE_2 = (
    TableRow("ResNet-18", "resnet_18", 11.7, 1.8, 4454),
    TableRow("RegNetY-1.6G", "regnet_y_1_6g", 11.2, 1.6, 1845),
    TableRow("DeiT-T", "deit_tiny", 5.7, 1.3, 3398),
    TableRow("PVT-T", "pvt_tiny", 13.2, 1.9, 1768),
    TableRow(
        "PVTv2-b1", "pvt_v2_b1", 13.1, 2.1, 1231,
        "PVT v2's authors correct the 13.1 M of their first version to 14.0 M",
    ),
    TableRow("LaViT-T", "lavit_t", 10.9, 1.6, 2098, _LAVIT_ROW),
    TableRow(
        "ResNet-50", "resnet_50", 25.0, 4.1, 1279, "25.0 M is 25.6 M everywhere else"
    ),
    TableRow("RegNetY-4G", "regnet_y_4g", 20.6, 4.0, 1045),
    TableRow(
        "EfficientNet-B4", "efficientnet_b4", 19.0, 4.2, 387,
        "its authors' 4.2 G; the same network counts 4.4 G here and in torchvision",
    ),
    TableRow(
        "EfficientViT-B2", "efficientvit_b2", 24.0, 4.5, 1587,
        "its authors count 1.6 G at 224 pixels, the size at which it has the printed accuracy",
    ),
    TableRow("DeiT-S", "deit_small", 22.1, 4.6, 1551),
    TableRow(
        "DeepViT-S", "deepvit_s", 27.0, 6.2, 1423,
        "the sizes in its authors' repository take 6.36 G",
    ),
    TableRow("PVT-S", "pvt_small", 24.5, 3.8, 1007),
    TableRow(
        "CvT-S", "cvt_13", 25.8, 7.1, 636,
        "CvT has no S: CvT-13 has 20 M and 4.5 G; 7.1 G is what CvT-21 (32 M) takes",
    ),
    TableRow("Swin-T", "swin_tiny", 28.3, 4.5, 961),
    TableRow("PVTv2-b2", "pvt_v2_b2", 25.4, 4.0, 695),
    TableRow(
        "DynamicViT-S (90%)", "dynamicvit_s", 24.1, 4.0, 1524,
        "DeiT-S and three predictors have 22.8 M",
    ),
    TableRow(
        "EViT-S (90%)", "evit_s", 23.9, 4.1, 1706, "EViT adds no parameters: DeiT-S has 22.1 M"
    ),
    TableRow("LiT-S", "lit_s", 27.0, 4.1, 1298, _LIT),
    TableRow(
        "PPT-S", "ppt_s", 22.1, 3.1, 1698,
        "the authors' command removes 50 tokens in each of 3 layers: 2.9 G",
    ),
    TableRow("LaViT-S", "lavit_s", 22.4, 3.3, 1546, _LAVIT_FLOPS),
    TableRow("ResNet-101", "resnet_101", 45.0, 7.9, 722),
    TableRow(
        "ViT-B", "vit_b", 86.6, 17.6, 270,
        "the printed accuracy, and so perhaps the throughput, is that of 384 pixels",
    ),
    TableRow("DeiT-B", "deit_base", 86.6, 17.5, 582),
    TableRow("Swin-S", "swin_small", 49.6, 8.7, 582),
    TableRow("Swin-B", "swin_base", 87.8, 15.4, 386),
    TableRow(
        "DynamicViT-B (90%)", "dynamicvit_b", 76.6, 14.1, 732,
        "DeiT-B and three predictors have 89.5 M; its authors' repository prints FLOPs for B at "
        "70 % only, which this module gives (11.4 G)",
    ),
    TableRow(
        "EViT-B (90%)", "evit_b", 78.6, 15.3, 852, "EViT adds no parameters: DeiT-B has 86.6 M"
    ),
    TableRow("LiT-M", "lit_m", 48.0, 8.6, 638, _LIT),
    TableRow(
        "PPT-B", "ppt_b", 86.0, 14.5, 714,
        "counted with the authors' command for PPT-S; their repository prints none for PPT-B",
    ),
    TableRow("PVT-M", "pvt_medium", 44.2, 6.7, 680),
    TableRow("PVT-L", "pvt_large", 61.4, 9.8, 481),
    TableRow("LaViT-B", "lavit_b", 39.6, 6.1, 877, _LAVIT_ROW),
)  # fmt: skip
"""Every row, in the order of the paper."""

PAPER = MappingProxyType(
    {row.model: row.published for row in TABLE_2 if row.model.startswith("lavit_")}
)
"""What the paper prints for LaViT. No reading of it gives these FLOPs, nor T's and B's parameters:
they are shown beside this project's counts, never in their place."""
