"""A model repository of NVIDIA Triton Inference Server, from a bundle."""
