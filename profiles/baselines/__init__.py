"""The architectures that LaViT is compared with: one file for each family, and their catalogue."""

from lavit_deploy.profiles.baselines.catalogue import BASELINES, FAMILIES
from lavit_deploy.profiles.baselines.family import Baseline, BaselineFamily, Published, Variant
from lavit_deploy.profiles.baselines.paper import PAPER, TABLE_2, TableRow

__all__ = [
    "BASELINES",
    "FAMILIES",
    "PAPER",
    "TABLE_2",
    "Baseline",
    "BaselineFamily",
    "Published",
    "TableRow",
    "Variant",
]
