"""Engines of TensorRT 10 and 11 and of TensorRT-RTX from ONNX graphs."""
