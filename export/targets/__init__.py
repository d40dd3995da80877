"""What a checkpoint can become: one file for each format, all with the interface of `target`."""
