"""What every room may use and what knows no room: errors, files, the machine, command lines."""
