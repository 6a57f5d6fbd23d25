"""The embedded embedder: multilingual-e5-small turned into an ONNX graph of integers."""
