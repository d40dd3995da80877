"""PyTorch modules of baselines that no library has, imported only when one is built."""
