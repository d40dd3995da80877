"""What stands between clients and the service: prefixes of paths, addresses that are forwarded."""
