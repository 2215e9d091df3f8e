"""A speech system as ONNX files, and what a program without PyTorch has to know to speak with them."""
