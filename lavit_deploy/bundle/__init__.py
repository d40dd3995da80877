"""The bundle on disk: opening it, choosing what of it to run here, measuring how fast."""
