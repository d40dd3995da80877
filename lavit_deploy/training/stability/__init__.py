"""Signs that a training fails, and what keeps it from failing."""
