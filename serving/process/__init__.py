"""A process's life: sockets, signals, worker processes, and what they share."""
