"""The embedded embedding model: multilingual-e5-small as an int8 ONNX graph. See README.md."""
