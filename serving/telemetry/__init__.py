"""What the service says of itself: logs, metrics, traces and the timeline of a picture."""
