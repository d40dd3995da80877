"""The HTTP service: decode, batch, infer, answer; `lavit-serve`."""
