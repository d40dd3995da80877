"""Fixtures that every folder of tests shares: no framework is imported here."""

import numpy as np
import pytest
from hypothesis import settings

# Hypothesis takes an example of more than 0.2 s for a fault; on a busy machine any may take that.
settings.register_profile("any-machine", settings(), deadline=None)
settings.load_profile("any-machine")


@pytest.fixture(scope="session")
def pictures():
    """Smooth random uint8 pictures [12, 32, 32, 3]."""
    generator = np.random.default_rng(7)
    coarse = generator.integers(0, 256, (12, 4, 4, 3)).astype(np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def pytest_make_parametrize_id(val):
    """Bytes are named by their number: compressed ones hold the time of day, and two processes
    must give a test the same name."""
    return f"{len(val)} bytes" if isinstance(val, bytes) else None
