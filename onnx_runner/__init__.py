"""Speaks with the ONNX files of an exported voice: NumPy and ONNX Runtime, no PyTorch; for text, also `text`."""
