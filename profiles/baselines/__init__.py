"""The architectures that LaViT is compared with: what was published about them, and their sizes."""

from lavit_deploy.profiles.baselines.base import Architecture, Baseline, Family, closed_form
from lavit_deploy.profiles.baselines.catalogue import BASELINES
from lavit_deploy.profiles.baselines.published import PAPER, TABLE_2, Published, TableRow

__all__ = [
    "BASELINES",
    "PAPER",
    "TABLE_2",
    "Architecture",
    "Baseline",
    "Family",
    "Published",
    "TableRow",
    "closed_form",
]
