"""What the tests of this folder share."""

from mean_bundles import artifact, parity, write, write_graph  # noqa: F401 - fixtures
