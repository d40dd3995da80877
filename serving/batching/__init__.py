"""From single pictures to batches: admission, batch sizes, and calls of a runtime."""
