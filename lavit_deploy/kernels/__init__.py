"""GPU kernels of this project, as PyTorch operators that also run on a CPU."""

import logging
from importlib.util import find_spec

if find_spec("triton") is None:  # nor is there CUDA; PyTorch would warn of every operator
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
