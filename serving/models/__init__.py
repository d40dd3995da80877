"""Which models the service has, and how one of them classifies pictures."""
