"""Parts of `benchmarks/quantized.py`."""
