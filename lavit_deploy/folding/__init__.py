"""Exact rewrites of a trained LaViT: the same function, in fewer and larger operators."""
