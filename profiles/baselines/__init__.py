"""The architectures that LaViT is compared with: what was published about them, and their sizes."""

from profiles.baselines.base import Architecture, Baseline, Family, closed_form
from profiles.baselines.catalogue import BASELINES
from profiles.baselines.published import PAPER, TABLE_2, Published, TableRow

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
