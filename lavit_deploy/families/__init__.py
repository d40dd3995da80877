"""Which models there are: what a family's configuration, network, layers and counts are."""
