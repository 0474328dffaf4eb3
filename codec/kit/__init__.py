"""What trainers of several codecs share: photos, crops, losses, ONNX files, recipes, runs."""
