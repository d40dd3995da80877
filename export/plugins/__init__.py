"""The TensorRT plugin: its C++ sources, and the compilation of its kernels."""
