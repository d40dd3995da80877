"""Times that can be trusted: runners in turn, intervals, and the machine's state and peaks."""
