"""GPU kernels of this project, as PyTorch operators that also run on a CPU."""
