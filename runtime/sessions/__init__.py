"""What runs graphs, and where: ONNX Runtime on a provider or TensorRT engines, on host or GPU."""
