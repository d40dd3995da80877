"""Multiply-adds: by closed form, and by tracing the operators."""
