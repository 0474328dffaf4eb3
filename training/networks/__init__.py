"""Networks that only training builds in torch; the edge runs the extractor as ONNX."""
