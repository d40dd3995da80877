"""What the tests of this folder share."""

import importlib
from pathlib import Path

import pytest

from installed_packages import install  # noqa: F401 - a fixture
from tiny_models import seeded, tiny_model, tiny_preprocess  # noqa: F401 - fixtures

SOURCE = Path(__file__).parents[1] / "support" / "tiny_family.py"


@pytest.fixture
def tiny_family(install):
    """A second family, installed as somebody else's package."""
    install("tiny_family", SOURCE.read_text(), {"lavit_deploy.families": {"tiny": "TINY"}})
    return importlib.import_module("tiny_family")
