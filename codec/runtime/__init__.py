"""What ONNX Runtime is made to do faster, with the same bits."""
