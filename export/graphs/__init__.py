"""The model as a graph: ONNX, ONNX with the plugin's node, and a PyTorch program."""
