"""What was measured, as data that can be written, read, compared and judged."""
