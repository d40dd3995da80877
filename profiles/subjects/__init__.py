"""From a name on the command line to a model that can be counted and timed."""
