"""From bytes on a socket to a handler, and the way back."""
