"""Checkpoint to bundle: graphs, their checks, and `lavit-export`."""
