"""Many pictures offline: folders, lists and tables in, a table of predictions out."""
